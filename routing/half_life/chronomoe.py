"""The numbers that ChronoMoE's half-life measurement gives, under its names, for comparison.

None of them knows about noise; `moe_watch.routing.half_life.fit` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from moe_watch.routing.arrays import Floats

FLAT_SLOPE, CLIFF_DROP, CLIFF_RATIO = -0.001, 0.1, 5.0
ENDS = 0.3
"""Share of a series at either end that `early_late` compares."""


@dataclass(frozen=True, slots=True)
class ReferenceNumbers:
    """Statistics of a mid-pressure series; per chunk where they are rates."""

    initial_pressure: float
    final_pressure: float
    total_decay: float
    """Last less first: negative if it fell."""
    linear_slope: float
    exponential_tau: float | None
    """−1 / slope of ln(|p − min p| + 0.01) on the chunk; None if that does not fall."""
    max_single_drop: float
    """The lowest difference of two successive chunks: negative for a drop."""
    max_drop_at_chunk: int
    """Position of the chunk before that drop."""
    mean: float
    std: float
    """Of the population (ddof 0)."""
    min: float
    max: float


def reference_numbers(mid: Sequence[float]) -> ReferenceNumbers:
    """The numbers of a series of at least 2 finite values, one per chunk."""
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
    """What the reference's report calls a series with these numbers."""
    if numbers.linear_slope > FLAT_SLOPE:
        return "stable"
    drop = abs(numbers.max_single_drop)
    if drop > CLIFF_DROP and drop > CLIFF_RATIO * abs(numbers.linear_slope):
        return "cliff"
    return "linear" if numbers.exponential_tau is None else "exponential"


@dataclass(frozen=True, slots=True)
class EntropyCollapse:
    """By how much router entropy fell over a run, in its own unit; negative if it rose."""

    first_last: float
    """First chunk less last chunk."""
    early_late: float
    """Mean of the first 30 % of the chunks less mean of the last 30 %."""


def entropy_collapse(entropies: Sequence[float]) -> EntropyCollapse | None:
    """The collapse over these chunks; None for fewer than 2."""
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
