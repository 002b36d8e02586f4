"""How sure a fitted curve is: curves refitted to themselves with other noise of the same kind.

Where several shapes fit about as well, the draws are shared out among them by Akaike weight, so that not knowing the
shape widens the interval. Likewise each draw has a φ of its own, as far from the estimate as estimates of φ scatter.
With the best shape and one φ alone, 95 % intervals covered as little as 86 % (docs/calibration.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import sqrt

import numpy as np

from routing.arrays import Floats
from routing.trend_gate import MOST_PERSISTENT, ar1_noise
from routing.trend_shapes import PARAMETERS, Axis, Curves

DRAWS = 400
OUTSIDE = 0.025
"""Share of the draws beyond either end of a 95 % interval."""
LEAST_LEFT = 0.25
"""Of n degrees of freedom, at least this share is taken to be left after a fit, however persistent the noise."""

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


def ar1_refits(axis: Axis, fitted: Iterable[Fitted], phi: float, random: np.random.Generator) -> Refits:
    """Refits with AR(1) noise as strong as the residuals."""

    def noise(each: Fitted, draws: int) -> Floats:
        scatter = sqrt((1 - phi**2) / axis.n) * random.standard_normal(draws)
        phis = np.clip(phi + scatter, 0, MOST_PERSISTENT)
        return float(_scaled(each, phi).std()) * ar1_noise(random, axis.n, draws, phis)

    return _refits(axis, fitted, noise)


def block_refits(axis: Axis, fitted: Iterable[Fitted], random: np.random.Generator) -> Refits:
    """Refits whose noise is the residuals themselves, drawn in moving blocks."""
    n, length = axis.n, min(axis.n, block_length(axis.n))

    def noise(each: Fitted, draws: int) -> Floats:
        begins = random.integers(0, n - length + 1, (-(-n // length), 1, draws))
        chosen = (begins + np.arange(length)[None, :, None]).reshape(-1, draws)[:n]
        drawn: Floats = _scaled(each, 0.0)[chosen]
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
    curves = []
    done, share = 0, 0.0
    for each in fitted:
        share += each.weight
        draws, done = round(DRAWS * share) - done, round(DRAWS * share)
        if draws:
            series = each.curve.values(axis.t) + noise(each, draws)
            curves.append(axis.fit(each.curve.shape, series, rounds=1))
    return Refits(tuple(curves))


def _scaled(fitted: Fitted, phi: float) -> Floats:
    """Residuals about their mean, as large as the noise was before parameters were fitted to it.

    A parameter takes more than one degree of freedom out of persistent noise: (1 + φ) / (1 − φ).
    """
    n = len(fitted.residuals)
    lost = len(PARAMETERS[fitted.curve.shape]) * (1 + phi) / (1 - phi)
    around: Floats = fitted.residuals - fitted.residuals.mean()
    return around * sqrt(n / max(n - lost, LEAST_LEFT * n))
