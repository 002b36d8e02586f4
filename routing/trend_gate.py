"""Is there a trend at all? A test against a constant with AR(1) noise, by simulation.

An information criterion alone calls 41 % (white noise) to 84 % (φ = 0.5) of constant series "not stable".
"""

from __future__ import annotations

import numpy as np

from routing.arrays import Floats
from routing.trend_shapes import Axis

SIMULATIONS = 499
LIKELY = 0.02
"""A trend whose p is above this is no trend."""
MIN_CHANGE = 0.05
"""A trend over the whole series of less than this share of its start is no trend."""
MOST_PERSISTENT = 0.95


def persistence(noise: Floats) -> float:
    """φ of AR(1) noise, 0..0.95, from what a fitted trend leaves, `[n]`.

    A lag-1 autocorrelation comes out too low once some three parameters were fitted; this corrects for it.
    """
    n, power = len(noise), float(noise @ noise)
    if power == 0:
        return 0.0
    lag_1 = float(noise[1:] @ noise[:-1]) / power
    return min(MOST_PERSISTENT, max(0.0, (n * lag_1 + 3) / max(1, n - 6)))


def ar1_noise(random: np.random.Generator, n: int, series: int, phi: float | Floats) -> Floats:
    """Stationary AR(1) noise of standard deviation 1, `[n, series]`; one φ, or one per series."""
    noise = random.standard_normal((n, series))
    noise[1:] *= np.sqrt(1 - np.square(phi))
    for at in range(1, n):
        noise[at] += phi * noise[at - 1]
    return noise


def trend_p(axis: Axis, series: Floats, phi: float, random: np.random.Generator) -> float:
    """How likely a constant with AR(1) noise looks at least as much like a trend as `series [n]` does.

    The statistic is the supremum likelihood ratio of line, exponential and cliff against the constant, which rises
    with the share of variance explained by the best of them.
    """
    observed = axis.best_share(series[:, None])[0]
    simulated = axis.best_share(ar1_noise(random, axis.n, SIMULATIONS, phi))
    return float((1 + (simulated >= observed).sum()) / (SIMULATIONS + 1))
