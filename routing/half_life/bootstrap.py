"""How sure a fitted curve is, the noise being whatever it is: curves refitted to themselves with their residuals moved.

Where several shapes fit about as well, the draws are shared out among them by Akaike weight.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt

import numpy as np

from moe_watch.routing.arrays import Floats
from moe_watch.routing.half_life.draws import Draws, Fitted
from moe_watch.routing.half_life.noise import apportion
from moe_watch.routing.half_life.shapes import PARAMETERS, TimeAxis

REFITS = 400


def block_refits(axis: TimeAxis, fitted: Iterable[Fitted], random: np.random.Generator) -> Draws:
    """Refits whose noise is the residuals themselves, drawn in moving blocks."""
    shapes = list(fitted)
    numbers = apportion(np.array([each.weight for each in shapes]), REFITS)
    curves = [
        axis.fit(each.curve.shape, each.curve.values(axis.t) + _blocks(each, number, random), rounds=1)
        for each, number in zip(shapes, numbers.tolist(), strict=True)
        if number
    ]
    return Draws(tuple(curves))


def block_length(n: int) -> int:
    """Chunks per block for a series of `n`: 5 for 50, growing with the cube root."""
    return max(2, round(1.4 * float(np.cbrt(n))))


def _blocks(fitted: Fitted, draws: int, random: np.random.Generator) -> Floats:
    """Residuals in moving blocks, `[n, draws]`."""
    n = len(fitted.residuals)
    length = min(n, block_length(n))
    begins = random.integers(0, n - length + 1, (-(-n // length), 1, draws))
    chosen = (begins + np.arange(length)[None, :, None]).reshape(-1, draws)[:n]
    drawn: Floats = _scaled(fitted)[chosen]
    return drawn


def _scaled(fitted: Fitted) -> Floats:
    """Residuals about their mean, as large as white noise was before parameters were fitted to it."""
    n = len(fitted.residuals)
    around: Floats = fitted.residuals - fitted.residuals.mean()
    return around * sqrt(n / (n - len(PARAMETERS[fitted.curve.shape])))
