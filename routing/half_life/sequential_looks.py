"""Repeated looks: what a test made again and again on a growing series finds.

A series that is watched is tested many times, and noise alone passes a test of 2 % now and then. So the test counts
only at fixed numbers of measured chunks, about ten for every tenfold length, and its p is multiplied by a factor for
the looks there are. Everything is a function of the series: it does not matter when, or whether, a screen showed it.

A finding lasts until a look finds nothing by a wide margin. The factor, the limits and the schedule are calibrated:
docs/calibration.md, "Looked at again and again".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from moe_watch.routing.arrays import Floats
from moe_watch.routing.half_life.candidates import Candidates
from moe_watch.routing.half_life.shapes import time_axis
from moe_watch.routing.half_life.trend_detection import MIN_CHANGE, trend_p

STEPS = (10, 12, 15, 20, 25, 30, 40, 50, 60, 80)
"""Looks from 10 to 100 measured chunks; ten times these up to 1,000, and so on."""
EARLY = (5, 6, 8)
"""Looks before."""
FACTOR, EARLY_FACTOR = 15, 60
"""A look's p is multiplied by this. Early looks find next to nothing, and would use up much of what may go wrong."""
LIMIT = 0.1
"""A trend whose sequential p is above this is no trend."""
WITHDRAWN = 0.1
"""A look whose own p is above this ends a finding."""
KEPT = 1024
"""Looks that are remembered."""


@dataclass(frozen=True, slots=True)
class Look:
    """The test at one length of a series."""

    chunks: int
    p: float
    """Of this look alone."""
    change: float
    """Change of the likeliest trend over the series, as a share of its start."""

    @property
    def corrected(self) -> float:
        """Its p with the factor for the looks there are."""
        return min(1.0, self.p * (EARLY_FACTOR if self.chunks < STEPS[0] else FACTOR))


@dataclass(frozen=True, slots=True)
class SequentialResult:
    """The result of all looks so far."""

    looks: int
    """Number of looks."""
    p: float
    """Sequential p: the lowest corrected p since a look last found nothing."""
    found: bool
    """A look found a trend, and none since has withdrawn it."""


def look_counts(chunks: int) -> Iterator[int]:
    """Yield the numbers of measured chunks at which a series of this length was looked at."""
    yield from (count for count in EARLY if count <= chunks)
    scale = 1
    while True:
        for step in STEPS:
            if step * scale > chunks:
                return
            yield step * scale
        scale *= 10


def sequential_test(series: Floats, times: Floats, seed: int) -> SequentialResult:
    """Return what all looks at a series come to, see `run_looks`."""
    return sequential_result(run_looks(series, times, seed))


def run_looks(series: Floats, times: Floats, seed: int = 0) -> list[Look]:
    """Take all looks at a series.

    Args:
        series: `[n]`.
        times: `[n]`, in chunks since the first one.
        seed: of the simulations.
    """
    return [_look(series[:count].tobytes(), times[:count].tobytes(), seed) for count in look_counts(len(series))]


def sequential_result(looks: Sequence[Look]) -> SequentialResult:
    """Return what looks in a row come to."""
    p, found = 1.0, False
    for look in looks:
        if look.p > WITHDRAWN or look.change < MIN_CHANGE / 2:
            p, found = look.corrected, False
            continue
        p = min(p, look.corrected)
        found = p <= LIMIT and (found or look.change >= MIN_CHANGE)
    return SequentialResult(len(looks), p, found)


@lru_cache(maxsize=KEPT)
def _look(series: bytes, times: bytes, seed: int) -> Look:
    """Look once. Kept, since a series that grows by a chunk has the same looks behind it."""
    values, t = np.frombuffer(series), np.frombuffer(times)
    where = time_axis(tuple(t.tolist()))
    candidates = Candidates(where, values, 0)
    p = trend_p(where, values, candidates.noise, np.random.default_rng(seed))
    return Look(len(values), p, candidates.trend.change(0.0, float(t[-1])))
