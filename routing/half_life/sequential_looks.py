"""Sequential looks: the trend test of a growing series, corrected for repeated testing.

A live series is tested many times, and noise alone passes a test at the 2 % level now and then. So the test counts
only at fixed numbers of measured chunks (looks), about ten for every tenfold length, and its p is multiplied by a
factor for the number of looks. The result is a function of the series alone: it does not depend on when, or if, a
screen showed the series.

A found trend remains until a look clearly finds none. The factor, the limits and the schedule are calibrated:
docs/calibration.md, "Looked at again and again".

References: armitage-1969.
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
"""Lengths at which a series is tested, from 10 to 100 measured chunks; ten times these up to 1,000, and so on."""
EARLY = (5, 6, 8)
"""Lengths below 10."""
FACTOR, EARLY_FACTOR = 15, 60
"""Factors by which the p of a look is multiplied. Early looks find very little and would add many false positives."""
LIMIT = 0.1
"""Largest sequential p of a trend."""
WITHDRAWN = 0.1
"""A look with an uncorrected p above this withdraws a trend."""
KEPT = 1024
"""Size of the cache of looks."""


@dataclass(frozen=True, slots=True)
class Look:
    """Trend test at one length of a series."""

    chunks: int
    p: float
    """p of this look alone."""
    change: float
    """Change of the best trend (lowest AICc) over the series, as a share of its start."""

    @property
    def corrected(self) -> float:
        """Corrected p: p times the factor for repeated looks, at most 1."""
        return min(1.0, self.p * (EARLY_FACTOR if self.chunks < STEPS[0] else FACTOR))


@dataclass(frozen=True, slots=True)
class SequentialResult:
    """Result of all looks so far."""

    looks: int
    """Number of looks."""
    p: float
    """Sequential p: the lowest corrected p since a look last withdrew the trend."""
    found: bool
    """A look found a trend, and no later look has withdrawn it."""


def look_counts(chunks: int) -> Iterator[int]:
    """Yield the numbers of measured chunks at which a series of this length has been tested."""
    yield from (count for count in EARLY if count <= chunks)
    scale = 1
    while True:
        for step in STEPS:
            if step * scale > chunks:
                return
            yield step * scale
        scale *= 10


def sequential_test(series: Floats, times: Floats, seed: int) -> SequentialResult:
    """Return the result of all looks at a series, see `run_looks`.

    References: armitage-1969.
    """
    return sequential_result(run_looks(series, times, seed))


def run_looks(series: Floats, times: Floats, seed: int = 0) -> list[Look]:
    """Test a series at every length of the schedule.

    Args:
        series: `[n]`.
        times: `[n]`, in chunks since the first one.
        seed: of the simulations.
    """
    return [_look(series[:count].tobytes(), times[:count].tobytes(), seed) for count in look_counts(len(series))]


def sequential_result(looks: Sequence[Look]) -> SequentialResult:
    """Combine successive looks."""
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
    """Test a series once. Cached, since a series that grows by a chunk repeats its earlier looks."""
    values, t = np.frombuffer(series), np.frombuffer(times)
    where = time_axis(tuple(t.tolist()))
    candidates = Candidates(where, values, 0)
    p = trend_p(where, values, candidates.noise, np.random.default_rng(seed))
    return Look(len(values), p, candidates.trend.change(0.0, float(t[-1])))
