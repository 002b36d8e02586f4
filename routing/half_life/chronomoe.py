"""Numbers of ChronoMoE's half-life measurement, under its names, for comparison.

None of them accounts for noise; `moe_watch.routing.half_life.fit` does.

References: chronomoe-2024, shannon-1948.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from moe_watch.routing.arrays import Floats

FLAT_SLOPE, CLIFF_DROP, CLIFF_RATIO = -0.001, 0.1, 5.0
ENDS = 0.3
"""Share of a series, at each end, that `early_late` compares."""


@dataclass(frozen=True, slots=True)
class ReferenceNumbers:
    """Statistics of a mid-pressure series; rates are per chunk.

    References: chronomoe-2024.
    """

    initial_pressure: float
    final_pressure: float
    total_decay: float
    """Last minus first value: negative if it fell."""
    linear_slope: float
    exponential_tau: float | None
    """−1 / slope of ln(|p − min p| + 0.01) on the chunk number; None if the slope is not negative."""
    max_single_drop: float
    """The lowest difference of two successive chunks: negative for a drop."""
    max_drop_at_chunk: int
    """Position of the chunk before that drop."""
    mean: float
    std: float
    """Standard deviation of the population (ddof 0)."""
    min: float
    max: float


def reference_numbers(mid: Sequence[float]) -> ReferenceNumbers:
    """Return the numbers of a series of at least 2 finite values, one per chunk."""
    values = np.asarray(mid, float)
    differences = np.diff(values)
    at = int(differences.argmin())
    return ReferenceNumbers(
        initial_pressure=float(values[0]),
        final_pressure=float(values[-1]),
        total_decay=float(values[-1] - values[0]),
        linear_slope=_slope(values),
        exponential_tau=_tau(values),
        max_single_drop=float(differences[at]),
        max_drop_at_chunk=at,
        mean=float(values.mean()),
        std=float(values.std()),
        min=float(values.min()),
        max=float(values.max()),
    )


def reference_shape(numbers: ReferenceNumbers) -> Literal["stable", "cliff", "exponential", "linear"]:
    """Return the shape that the reference's report gives to a series with these numbers.

    References: chronomoe-2024.
    """
    if numbers.linear_slope > FLAT_SLOPE:
        return "stable"
    drop = abs(numbers.max_single_drop)
    if drop > CLIFF_DROP and drop > CLIFF_RATIO * abs(numbers.linear_slope):
        return "cliff"
    return "linear" if numbers.exponential_tau is None else "exponential"


@dataclass(frozen=True, slots=True)
class EntropyCollapse:
    """Fall of router entropy over a run, in units of the router entropy; negative if it rose.

    References: chronomoe-2024, shannon-1948.
    """

    first_last: float
    """First chunk minus last chunk."""
    early_late: float
    """Mean of the first 30 % of the chunks minus mean of the last 30 %."""


def entropy_collapse(entropies: Sequence[float]) -> EntropyCollapse | None:
    """Return the fall of router entropy over these chunks; None for fewer than 2."""
    if len(entropies) < 2:
        return None
    values = np.asarray(entropies, float)
    count = max(1, int(ENDS * len(values)))
    return EntropyCollapse(float(values[0] - values[-1]), float(values[:count].mean() - values[-count:].mean()))


def _slope(values: Floats) -> float:
    around = np.arange(len(values)) - (len(values) - 1) / 2
    return float(around @ (values - values[0]) / (around @ around))


def _tau(values: Floats) -> float | None:
    slope = _slope(np.log(values - values.min() + 0.01))
    return -1 / slope if slope < 0 else None
