"""Means over independent clusters, with bootstrap-t intervals that assume no distribution.

References: oneill-2014, efron-1979, hall-1988, davison-hinkley-1997.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moe_watch.routing.arrays import Floats

FEWEST_CLUSTERS = 5
"""Least number of clusters: with fewer, resampling does not estimate the error of their mean."""
DRAWS = 4000
BLOCK = 250
"""Draws in one computation, so that memory does not grow with draws × clusters."""
SEED = 0
"""Seed of the draws: the same values have the same interval."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Mean over clusters, with its interval."""

    mean: float
    interval: tuple[float, float] | None
    """95 %; None for fewer than `FEWEST_CLUSTERS`."""
    clusters: int

    @property
    def is_other_than_zero(self) -> bool:
        """True if there is an interval, and it does not contain 0."""
        return self.interval is not None and (self.interval[0] > 0 or self.interval[1] < 0)


def cluster_mean(values: Sequence[float] | Floats) -> Estimate:
    """Return the mean of one value per cluster `[n]`, with its 95 % bootstrap-t interval over clusters.

    The interval is studentised, because the percentile interval of a dozen clusters is too narrow.

    Raises:
        ValueError: there is no cluster.

    References: oneill-2014, efron-1979, hall-1988, davison-hinkley-1997.
    """
    found = np.asarray(values, np.float64)
    if not len(found):
        raise ValueError("a mean of no clusters")
    mean = float(found.mean())
    if len(found) < FEWEST_CLUSTERS:
        return Estimate(mean, None, len(found))
    low, high = np.percentile(_studentised(found), [2.5, 97.5])
    error = float(found.std(ddof=1)) / len(found) ** 0.5
    return Estimate(mean, (mean - float(high) * error, mean - float(low) * error), len(found))


def _studentised(values: Floats) -> Floats:
    """Return (mean of a resample − mean) over the standard error of the resample, for `DRAWS` resamples."""
    rng, n = np.random.default_rng(SEED), len(values)
    found = []
    for _ in range(DRAWS // BLOCK):
        drawn = values[rng.integers(0, n, (BLOCK, n))]
        error = drawn.std(axis=1, ddof=1) / n**0.5
        varies = error > 0
        found.append((drawn.mean(axis=1)[varies] - values.mean()) / error[varies])
    together = np.concatenate(found)
    return together if len(together) else np.zeros(1)
