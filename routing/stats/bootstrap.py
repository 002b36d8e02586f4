"""Means over independent clusters, with intervals that make no assumption about their distribution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moe_watch.routing.arrays import Floats

FEWEST_CLUSTERS = 5
"""Of fewer, resampling cannot tell how far their mean may be off."""
DRAWS = 4000
BLOCK = 250
"""Draws at once, so that memory does not grow with draws × clusters."""
SEED = 0
"""Of the draws: the same values have the same interval."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over clusters and where it may lie."""

    mean: float
    interval: tuple[float, float] | None
    """95 %; None for fewer than `FEWEST_CLUSTERS`."""
    clusters: int

    @property
    def is_other_than_zero(self) -> bool:
        """The interval is known and leaves 0 out."""
        return self.interval is not None and (self.interval[0] > 0 or self.interval[1] < 0)


def cluster_mean(values: Sequence[float] | Floats) -> Estimate:
    """Mean of one value per cluster `[n]`, with its 95 % bootstrap-t interval over clusters.

    Studentised, because the plain percentile interval of a dozen clusters is too narrow.

    Raises:
        ValueError: there is no cluster.
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
    """(mean of a resample − mean) over the resample's own standard error, for `DRAWS` resamples."""
    rng, n = np.random.default_rng(SEED), len(values)
    found = []
    for _ in range(DRAWS // BLOCK):
        drawn = values[rng.integers(0, n, (BLOCK, n))]
        error = drawn.std(axis=1, ddof=1) / n**0.5
        varies = error > 0
        found.append((drawn.mean(axis=1)[varies] - values.mean()) / error[varies])
    together = np.concatenate(found)
    return together if len(together) else np.zeros(1)
