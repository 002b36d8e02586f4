"""Draws of a fitted curve, and their 95 % intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moe_watch.routing.arrays import Floats
from moe_watch.routing.half_life.shapes import Curves

OUTSIDE = 0.025
"""Share of the draws beyond either end of a 95 % interval."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """One shape fitted to one series by least squares."""

    curve: Curves
    residuals: Floats
    """`[n]`."""
    weight: float
    """Akaike weight among the shapes that the truth may have."""


@dataclass(frozen=True, slots=True)
class Draws:
    """Draws of the curve, by shape."""

    curves: tuple[Curves, ...]

    def band(self, t: Floats) -> tuple[Floats, Floats]:
        """Return the ends of the 95 % band at times `t [m]`."""
        return percentiles(np.concatenate([each.values(t) for each in self.curves], axis=1))

    def half_time(self) -> tuple[float, float]:
        """Return the ends of the 95 % interval of the time until half of the start; infinite for never."""
        low, high = percentiles(np.concatenate([each.half_times() for each in self.curves]))
        return float(low), float(high)


def percentiles(values: Floats) -> tuple[Floats, Floats]:
    """Return the ends of the 95 % interval over the last axis, without interpolation: values may be infinite."""
    ordered = np.sort(values, axis=-1)
    skip = int(OUTSIDE * values.shape[-1])
    return ordered[..., skip], ordered[..., -1 - skip]
