"""Half-life fit of a mid-pressure series: trend test, chosen shape, half-life and intervals.

Definitions and calibration: docs/measurements.md, "Half-life", and docs/calibration.md.

References: oneill-2014.
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
from moe_watch.routing.half_life.block_interval import block_refits
from moe_watch.routing.half_life.candidates import Candidate, Candidates
from moe_watch.routing.half_life.chronomoe import ReferenceNumbers, reference_numbers
from moe_watch.routing.half_life.draws import Draws
from moe_watch.routing.half_life.interval import posterior_draws
from moe_watch.routing.half_life.noise import lag_1
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
"""Limit of memory: a fit of this length takes some 200 MB."""


class FloorAboveHalf(NamedTuple):
    """Level at which a falling curve stays, and half of its start, which is lower."""

    floor: float
    half: float


@dataclass(frozen=True, slots=True)
class HalfLifeEstimate:
    """Half-life of the fitted curve with its intervals, in chunks."""

    value: float | None
    """Chunks from the first one until the fitted curve is at half of its start; None unless that was observed."""
    interval: tuple[float, float] | None
    """95 % interval; the upper end is infinite if half may never be reached."""
    block_interval: tuple[float, float] | None
    """95 % interval by a moving-block bootstrap of the residuals."""
    censored: bool
    """The curve is at half of its start only after the last observed chunk."""
    never: FloorAboveHalf | None
    """Set if the curve falls but levels off above half of its start."""


NO_HALF_LIFE = HalfLifeEstimate(value=None, interval=None, block_interval=None, censored=False, never=None)
"""Estimate of a series that does not fall."""


@dataclass(frozen=True, slots=True)
class TrendTest:
    """Trend test of the series."""

    p: float
    """p-value of a single look at this length: probability that noise alone looks at least as much like a trend."""
    p_sequential: float
    """p-value over all looks while the series grew (`sequential_looks.SequentialResult.p`). The verdict uses it."""
    looks: int
    """Number of looks, by the schedule of `sequential_looks`."""
    phi: float
    """Correlation of the noise in successive chunks, 0..0.95: mean over the noise models, weighted by their odds."""


@dataclass(frozen=True, slots=True)
class FittedSeries:
    """Facts of the series that was fitted. Positions are as given by the caller."""

    mode: str | None
    """Pressure mode; None if the caller gave none."""
    first: int
    """Position of the first chunk."""
    chunks: int
    span: float
    """Chunks from the first to the last one, both included; more than `chunks` if some were left out."""
    crossing: int | None
    """Position of the first chunk at or below half of the first one, as the reference defines it."""
    reference: ReferenceNumbers


@dataclass(frozen=True, slots=True)
class FittedCurve:
    """The chosen curve, the other candidates, and posterior draws of the curve."""

    chosen: Candidate
    candidates: tuple[Candidate, ...]
    start: float
    """Value of the chosen curve at the first chunk."""
    end: float
    """Value of the chosen curve at the last chunk."""
    draws: Draws = field(repr=False)
    """Curves drawn from the posterior, for the band and the half-life interval."""


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """Fit of a mid-pressure series. Times are in chunks, positions are as given by the caller.

    The groups are `half_life_estimate`, `trend_test`, `series` and `curve`; each of their numbers is also an attribute
    of the fit, such as `fit.half_life` and `fit.p`, which is what notebooks use.
    """

    verdict: Verdict
    half_life_estimate: HalfLifeEstimate
    trend_test: TrendTest
    series: FittedSeries
    curve: FittedCurve
    reach: Reachability | None
    """Lowest P_mid of the mode, and half of the start; None without a mode."""

    @property
    def half_life(self) -> float | None:
        """Chunks until the fitted curve is at half of its start; None unless that was observed."""
        return self.half_life_estimate.value

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the half-life; the upper end is infinite if half may never be reached."""
        return self.half_life_estimate.interval

    @property
    def block_interval(self) -> tuple[float, float] | None:
        """95 % interval of the half-life by a moving-block bootstrap of the residuals."""
        return self.half_life_estimate.block_interval

    @property
    def censored(self) -> bool:
        """The curve is at half of its start only after the last observed chunk."""
        return self.half_life_estimate.censored

    @property
    def never(self) -> FloorAboveHalf | None:
        """Set if the curve falls but levels off above half of its start."""
        return self.half_life_estimate.never

    @property
    def p(self) -> float:
        """p-value of a single look at this length."""
        return self.trend_test.p

    @property
    def p_sequential(self) -> float:
        """p-value over all looks while the series grew."""
        return self.trend_test.p_sequential

    @property
    def looks(self) -> int:
        """Number of looks."""
        return self.trend_test.looks

    @property
    def phi(self) -> float:
        """Correlation of the noise in successive chunks, 0..0.95."""
        return self.trend_test.phi

    @property
    def mode(self) -> str | None:
        """Pressure mode; None if the caller gave none."""
        return self.series.mode

    @property
    def first(self) -> int:
        """Position of the first chunk."""
        return self.series.first

    @property
    def chunks(self) -> int:
        """Number of chunks."""
        return self.series.chunks

    @property
    def span(self) -> float:
        """Chunks from the first to the last one, both included."""
        return self.series.span

    @property
    def crossing(self) -> int | None:
        """Position of the first chunk at or below half of the first one."""
        return self.series.crossing

    @property
    def reference(self) -> ReferenceNumbers:
        """Numbers of the reference."""
        return self.series.reference

    @property
    def chosen(self) -> Candidate:
        """The chosen candidate."""
        return self.curve.chosen

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """All candidates, the constant first."""
        return self.curve.candidates

    @property
    def start(self) -> float:
        """Value of the chosen curve at the first chunk."""
        return self.curve.start

    @property
    def end(self) -> float:
        """Value of the chosen curve at the last chunk."""
        return self.curve.end

    def band(self, t: npt.ArrayLike) -> tuple[Floats, Floats]:
        """Return the lower and upper end of the curve's 95 % band at chunk positions `t [m]`."""
        return self.curve.draws.band(np.atleast_1d(np.asarray(t, float)) - self.first)

    def forecast(self, t: float) -> float:
        """Return the value of the chosen curve at chunk position `t`."""
        return float(self.chosen.values(t))


def fit_half_life(
    mid: Sequence[float], *, mode: str | None = None, seed: int = 0, positions: Sequence[int] | None = None
) -> Fit:
    """Test a mid-pressure series for a trend, and fit its half-life.

    Args:
        mid: P_mid of complete chunks after the warm-up, in order.
        mode: pressure mode of the series; without a mode the verdict is never `unreachable`.
        seed: of the simulations; the same series and seed give the same fit.
        positions: position of each chunk, ascending; 0, 1, 2, … by default. Chunks that were left out leave a gap.

    Raises:
        UserError: fewer than 5 values, one that is not finite, an unknown mode, or positions that do not ascend.

    References: oneill-2014.
    """
    series = _checked(mid)
    if mode is not None and mode not in MODES:
        raise UserError(f"there is no pressure mode called {mode!r}", advice=f"use {MODES_OFFERED}")
    places = _places(positions, len(series))
    times = time_axis(tuple(float(place - places[0]) for place in places))
    return _fit(series, places, times, mode, seed)


def too_short(chunks: int) -> str:
    """Return why a series of this number of chunks is too short for a fit; empty if it is not."""
    missing = MIN_CHUNKS - chunks
    if missing <= 0:
        return ""
    have = "no measured chunk" if not chunks else f"{chunks} measured chunk{'s' * (chunks != 1)}"
    return f"{have}, and a fit needs at least {MIN_CHUNKS}: {missing} more"


def too_long(chunks: int) -> str:
    """Return why a series of this number of chunks is too long for a fit; empty if it is not."""
    return f"{chunks:,} measured chunks, and at most {MAX_CHUNKS:,} can be fitted" if chunks > MAX_CHUNKS else ""


def _fit(series: Floats, places: list[int], times: TimeAxis, mode: Mode | None, seed: int) -> Fit:
    random = np.random.default_rng(seed)
    candidates = Candidates(times, series, places[0])
    noise = candidates.noise
    p = trend_p(times, series, noise, random)
    looks = sequential_test(series, times.t, seed)
    chosen = candidates.trend if looks.found else candidates.constant
    start, end = (float(value) for value in chosen.values([places[0], places[-1]]))
    reach = None if mode is None else reachability(mode, start)
    verdict = _verdict(chosen, start, end, reach, float(series.min()))
    draws = posterior_draws(times, series, candidates.likely(chosen), random)
    blocks = block_refits(times, candidates.likely(chosen), random)
    facts = _facts(series, places, float(times.t[-1]) + 1, mode)
    estimate = NO_HALF_LIFE
    if verdict in TRENDS:
        estimate = _estimate(candidates.half_time(chosen), facts.span, draws, blocks, _never(chosen, start))
    return Fit(
        verdict=verdict,
        half_life_estimate=estimate,
        trend_test=TrendTest(p, looks.p, looks.looks, lag_1(noise)),
        series=facts,
        curve=FittedCurve(chosen, candidates.all, start, end, draws),
        reach=reach,
    )


def _facts(series: Floats, places: list[int], span: float, mode: Mode | None) -> FittedSeries:
    at = crossing(series.tolist())
    return FittedSeries(
        mode=mode,
        first=places[0],
        chunks=len(series),
        span=span,
        crossing=None if at is None else places[at],
        reference=reference_numbers(series.tolist()),
    )


def _estimate(
    half_time: float, span: float, draws: Draws, blocks: Draws, never: FloorAboveHalf | None
) -> HalfLifeEstimate:
    """Return the estimate of a falling curve that is at half of its start after `half_time` chunks.

    Args:
        half_time: of the chosen curve; infinite for never.
        span: chunks from the first to the last one.
        draws: posterior draws.
        blocks: refits of the block bootstrap.
        never: the reason, if `half_time` is infinite.
    """
    return HalfLifeEstimate(
        value=half_time if half_time <= span else None,
        interval=_interval(draws, half_time),
        block_interval=_interval(blocks, half_time),
        censored=span < half_time < inf,
        never=never if isinf(half_time) else None,
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
        raise UserError("the positions do not match the values", advice="give one per value, ascending")
    return places


def _verdict(chosen: Candidate, start: float, end: float, reach: Reachability | None, lowest: float) -> Verdict:
    # A value below the mode's floor shows that the series is of another mode, so its floor means nothing.
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
