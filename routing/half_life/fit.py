"""The half-life of mid-pressure: whether it falls at all, in which shape, and after how many chunks it is half.

What each number means and how it was calibrated: docs/measurements.md, "Half-life", and docs/calibration.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf, isfinite, isinf
from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from moe_watch.routing.arrays import Floats
from moe_watch.routing.errors import UserError
from moe_watch.routing.half_life.bootstrap import block_refits
from moe_watch.routing.half_life.candidates import Candidate, Candidates
from moe_watch.routing.half_life.chronomoe import ReferenceNumbers, reference_numbers
from moe_watch.routing.half_life.draws import Draws
from moe_watch.routing.half_life.noise import lag_1
from moe_watch.routing.half_life.posterior import posterior_draws
from moe_watch.routing.half_life.sequential_looks import sequential_test
from moe_watch.routing.half_life.shapes import TRENDS, TimeAxis, time_axis
from moe_watch.routing.half_life.trend_detection import trend_p
from moe_watch.routing.half_life.wording import in_words
from moe_watch.routing.pressure.formulas import MODES, MODES_OFFERED, Mode, Reachability, crossing, reachability

__all__ = [
    "MIN_CHUNKS",
    "VERDICTS",
    "Candidate",
    "Fit",
    "Verdict",
    "fit_half_life",
    "in_words",
    "too_long",
    "too_short",
]

Verdict = Literal["stable", "rising", "linear", "exponential", "cliff", "unreachable"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)

MIN_CHUNKS = 5
MAX_CHUNKS = 10_000
"""What a fit has memory for: some 200 MB."""


class FloorAboveHalf(NamedTuple):
    """Why a fitted curve never gets to half of its start."""

    floor: float
    half: float


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """What a mid-pressure series comes to. Times are in chunks, positions as they were given."""

    verdict: Verdict
    half_life: float | None
    """Chunks from the first one until the chosen curve is at half of its start; None unless it was observed to be."""
    interval: tuple[float, float] | None
    """95 % interval of the half-life; the upper end is infinite where it may never be reached."""
    block_interval: tuple[float, float] | None
    """The same by moving blocks of residuals."""
    censored: bool
    """The curve falls to half only after the last chunk that was observed."""
    never: FloorAboveHalf | None
    """Set where the curve falls, and levels off above half of its start."""
    mode: str | None
    p: float
    """How likely noise alone looks at least as much like a trend, if it is looked at once, at this length."""
    p_sequential: float
    """The same for a series that was watched while it grew: `trend_looks.SequentialResult.p`. The verdict follows it."""
    looks: int
    """How often the series was looked at, by the schedule of `trend_looks`."""
    phi: float
    """Correlation of the noise in successive chunks, 0..0.95: the mean over all kinds of noise by their odds."""
    start: float
    """Where the chosen curve begins."""
    end: float
    """Where the chosen curve is at the last chunk."""
    reach: Reachability | None
    """How low the mode can get, and half of the start; None without a mode."""
    crossing: int | None
    """Position of the first chunk at or below half of the first one, as the reference has it."""
    chunks: int
    span: float
    """Chunks from the first to the last one, both included; more than `chunks` where some were left out."""
    candidates: tuple[Candidate, ...]
    chosen: Candidate
    reference: ReferenceNumbers
    first: int
    """Position of the first chunk."""
    draws: Draws = field(repr=False)
    """Curves that the truth may be."""

    def band(self, t: npt.ArrayLike) -> tuple[Floats, Floats]:
        """Lower and upper end of the 95 % band of the curve at chunk positions `t [m]`."""
        return self.draws.band(np.atleast_1d(np.asarray(t, float)) - self.first)

    def forecast(self, t: float) -> float:
        """Where the chosen curve is at chunk position `t`."""
        return float(self.chosen.values(t))


def fit_half_life(
    mid: Sequence[float], *, mode: str | None = None, seed: int = 0, positions: Sequence[int] | None = None
) -> Fit:
    """Judge a mid-pressure series and find its half-life.

    Args:
        mid: P_mid of complete chunks after the warm-up, in order.
        mode: the pressure mode they were computed in; without one, whether half can be reached is not judged.
        seed: of the simulations; the same series and seed give the same fit.
        positions: where each chunk lies, ascending; 0, 1, 2, … by default. Chunks that were left out leave a gap.

    Raises:
        UserError: fewer than 5 values, one that is not finite, an unknown mode, or positions that do not ascend.
    """
    series = _checked(mid)
    if mode is not None and mode not in MODES:
        raise UserError(f"there is no pressure mode called {mode!r}", advice=f"use {MODES_OFFERED}")
    places = _places(positions, len(series))
    times = time_axis(tuple(float(place - places[0]) for place in places))
    return _fit(series, places, times, mode, seed)


def too_short(chunks: int) -> str:
    """Why a series of so few chunks cannot be fitted; empty if it can."""
    missing = MIN_CHUNKS - chunks
    if missing <= 0:
        return ""
    have = "no measured chunk" if not chunks else f"{chunks} measured chunk{'s' * (chunks != 1)}"
    return f"{have}, and a fit needs at least {MIN_CHUNKS}: {missing} more"


def too_long(chunks: int) -> str:
    """Why a series of so many chunks cannot be fitted; empty if it can."""
    return f"{chunks:,} measured chunks, and at most {MAX_CHUNKS:,} can be fitted" if chunks > MAX_CHUNKS else ""


def _fit(series: Floats, places: list[int], times: TimeAxis, mode: Mode | None, seed: int) -> Fit:
    random = np.random.default_rng(seed)
    candidates = Candidates(times, series, places[0])
    noise = candidates.noise
    p = trend_p(times, series, noise, random)
    watched = sequential_test(series, times.t, seed)
    chosen = candidates.trend if watched.found else candidates.constant
    start, end = (float(value) for value in chosen.values([places[0], places[-1]]))
    reach = None if mode is None else reachability(mode, start)
    verdict = _verdict(chosen, start, end, reach, float(series.min()))
    falls, half_time, span = verdict in TRENDS, candidates.half_time(chosen), float(times.t[-1]) + 1
    draws = posterior_draws(times, series, candidates.likely(chosen), random)
    blocks = block_refits(times, candidates.likely(chosen), random)
    at = crossing(series.tolist())
    return Fit(
        verdict=verdict,
        half_life=half_time if falls and half_time <= span else None,
        interval=_interval(draws, half_time) if falls else None,
        block_interval=_interval(blocks, half_time) if falls else None,
        censored=falls and span < half_time < inf,
        never=_never(chosen, start) if falls and isinf(half_time) else None,
        mode=mode,
        p=p,
        p_sequential=watched.p,
        looks=watched.looks,
        phi=lag_1(noise),
        start=start,
        end=end,
        reach=reach,
        crossing=None if at is None else places[at],
        chunks=len(series),
        span=span,
        candidates=candidates.all,
        chosen=chosen,
        reference=reference_numbers(series.tolist()),
        first=places[0],
        draws=draws,
    )


def _checked(mid: Sequence[float]) -> Floats:
    if why := too_short(len(mid)):
        raise UserError(why, advice="measure a longer run")
    if why := too_long(len(mid)):
        raise UserError(why, advice="fit a part of the run")
    series = np.array(mid, float)
    if not np.isfinite(series).all():
        at = int(np.flatnonzero(~np.isfinite(series))[0])
        raise UserError(f"value {at + 1} of {len(series)} is {series[at]}", advice="every chunk needs a finite number")
    return series


def _places(positions: Sequence[int] | None, chunks: int) -> list[int]:
    if positions is None:
        return list(range(chunks))
    places = list(positions)
    if len(places) != chunks or any(a >= b for a, b in pairwise(places)):
        raise UserError("the positions do not fit the values", advice="give one per value, ascending")
    return places


def _verdict(chosen: Candidate, start: float, end: float, reach: Reachability | None, lowest: float) -> Verdict:
    # A value below the supposed floor shows that the series is not of that mode, and the floor says nothing.
    if reach is not None and start > 0 and not reach.reachable and lowest >= reach.floor:
        return "unreachable"
    if chosen.shape == "constant":
        return "stable"
    return "rising" if end > start else chosen.shape


def _never(chosen: Candidate, start: float) -> FloorAboveHalf | None:
    floor = chosen.parameters.get("floor", chosen.parameters.get("after"))
    return None if start <= 0 or floor is None else FloorAboveHalf(floor, start / 2)


def _interval(draws: Draws, half_time: float) -> tuple[float, float] | None:
    low, high = draws.half_time()
    low, high = min(low, half_time), max(high, half_time)
    return (low, high) if isfinite(low) else None
