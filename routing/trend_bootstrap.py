"""How sure a fitted curve is: curves refitted to themselves with other noise of the same kind.

Where several shapes fit about as well, the draws are shared out among them by Akaike weight, so that not knowing the
shape widens the interval. Likewise they are shared out among the kinds of noise that may be around a shape. With the
best shape and one φ alone, 95 % intervals covered as little as 86 % (docs/calibration.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import sqrt

import numpy as np

from routing.arrays import Floats
from routing.trend_gate import noise_of_kinds
from routing.trend_noise import NoiseAround, kinds, shared_out
from routing.trend_shapes import PARAMETERS, Axis, Curves

DRAWS = 400
OUTSIDE = 0.025
"""Share of the draws beyond either end of a 95 % interval."""

Noise = Callable[["Fitted", int], Floats]
"""Noise for a fitted curve, `[n, draws]`."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """One shape fitted to one series."""

    curve: Curves
    residuals: Floats
    """`[n]`."""
    weight: float
    """How many of the draws it gets, as a share."""
    noise: NoiseAround
    """What the noise may be if this shape is right."""


@dataclass(frozen=True, slots=True)
class Refits:
    """`DRAWS` refitted curves, by shape."""

    curves: tuple[Curves, ...]

    def band(self, t: Floats) -> tuple[Floats, Floats]:
        """Ends of the 95 % band at times `t [m]`."""
        return percentiles(np.concatenate([each.values(t) for each in self.curves], axis=1))

    def half_time(self) -> tuple[float, float]:
        """Ends of the 95 % interval of the time until half of the start; infinite for never."""
        low, high = percentiles(np.concatenate([each.half_times() for each in self.curves]))
        return float(low), float(high)


def noise_refits(axis: Axis, fitted: Iterable[Fitted], random: np.random.Generator) -> Refits:
    """Refits with noise of the kinds that may be around each shape, as strong as its residuals."""

    def noise(each: Fitted, draws: int) -> Floats:
        drawn = kinds(each.noise.odds, draws)
        return each.noise.spread[drawn] * noise_of_kinds(random, axis.n, drawn)

    return _refits(axis, fitted, noise)


def block_refits(axis: Axis, fitted: Iterable[Fitted], random: np.random.Generator) -> Refits:
    """Refits whose noise is the residuals themselves, drawn in moving blocks."""
    n, length = axis.n, min(axis.n, block_length(axis.n))

    def noise(each: Fitted, draws: int) -> Floats:
        begins = random.integers(0, n - length + 1, (-(-n // length), 1, draws))
        chosen = (begins + np.arange(length)[None, :, None]).reshape(-1, draws)[:n]
        drawn: Floats = _scaled(each)[chosen]
        return drawn

    return _refits(axis, fitted, noise)


def block_length(n: int) -> int:
    """Chunks per block for a series of `n`: 5 for 50, growing with the cube root."""
    return max(2, round(1.4 * float(np.cbrt(n))))


def percentiles(values: Floats) -> tuple[Floats, Floats]:
    """Ends of the 95 % interval over the last axis, without interpolation: values may be infinite."""
    ordered = np.sort(values, axis=-1)
    skip = int(OUTSIDE * values.shape[-1])
    return ordered[..., skip], ordered[..., -1 - skip]


def _refits(axis: Axis, fitted: Iterable[Fitted], noise: Noise) -> Refits:
    shapes = list(fitted)
    draws = shared_out(np.array([each.weight for each in shapes]), DRAWS)
    curves = [
        axis.fit(each.curve.shape, each.curve.values(axis.t) + noise(each, number), rounds=1)
        for each, number in zip(shapes, draws.tolist(), strict=True)
        if number
    ]
    return Refits(tuple(curves))


def _scaled(fitted: Fitted) -> Floats:
    """Residuals about their mean, as large as white noise was before parameters were fitted to it."""
    n = len(fitted.residuals)
    around: Floats = fitted.residuals - fitted.residuals.mean()
    return around * sqrt(n / (n - len(PARAMETERS[fitted.curve.shape])))
