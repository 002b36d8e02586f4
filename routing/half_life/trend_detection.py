"""Is there a trend at all? A test against a constant with noise, by simulation.

An information criterion alone calls 41 % (white noise) to 84 % (φ = 0.5) of constant series "not stable".
"""

from __future__ import annotations

import numpy as np

from moe_watch.routing.arrays import AnyInts, Floats
from moe_watch.routing.half_life.noise import NOISE_MODELS, apportioned_indices
from moe_watch.routing.half_life.shapes import TimeAxis

SIMULATIONS = 499
CLOSE = 0.02
"""Where no more than this share of them look as much like a trend, `MORE` are made: small p count when multiplied."""
MORE, BATCH = 1500, 500
MIN_CHANGE = 0.05
"""A trend over the whole series of less than this share of its start is no trend."""


def ar1_noise(random: np.random.Generator, n: int, series: int, phi: float | Floats) -> Floats:
    """Stationary AR(1) noise of standard deviation 1, `[n, series]`; one φ, or one per series."""
    noise = random.standard_normal((n, series))
    noise[1:] *= np.sqrt(1 - np.square(phi))
    for at in range(1, n):
        noise[at] += phi * noise[at - 1]
    return noise


def noise_of_models(random: np.random.Generator, n: int, kinds: AnyInts) -> Floats:
    """Noise of standard deviation 1, `[n, S]`, for `kinds [S]` among `trend_noise.NOISE_MODELS`."""
    phi, share = NOISE_MODELS[:, kinds]
    noise, white = ar1_noise(random, n, len(kinds), phi), random.standard_normal((n, len(kinds)))
    noise *= np.sqrt(share)
    white *= np.sqrt(1 - share)
    noise += white
    return noise


def trend_p(axis: TimeAxis, series: Floats, odds: Floats, random: np.random.Generator) -> float:
    """How likely a constant with noise looks at least as much like a trend as `series [n]` does.

    The statistic is the supremum likelihood ratio of line, exponential and cliff against the constant, which rises
    with the share of variance explained by the best of them. Every kind of noise is simulated as often as its `odds
    [K]` say.
    """
    observed = float(axis.best_share(series[:, None])[0])
    simulations, hits = SIMULATIONS, _hits(axis, observed, odds, SIMULATIONS, random)
    if 1 + hits <= CLOSE * (SIMULATIONS + 1):
        more = random.spawn(1)[0]  # what follows the test draws the same numbers either way
        hits += sum(_hits(axis, observed, odds, BATCH, more) for _ in range(MORE // BATCH))
        simulations += MORE
    return (1 + hits) / (simulations + 1)


def _hits(axis: TimeAxis, observed: float, odds: Floats, simulations: int, random: np.random.Generator) -> int:
    """Count the simulated constants that look at least as much like a trend."""
    noise = noise_of_models(random, axis.n, apportioned_indices(odds, simulations))
    return int((axis.best_share(noise) >= observed).sum())
