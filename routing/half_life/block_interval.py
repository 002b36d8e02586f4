"""Moving-block bootstrap of a fitted curve: an interval without a noise model.

Each draw is a refit to the fitted curve plus its residuals, resampled in blocks. If several shapes fit about equally
well, the draws are divided among them by Akaike weight.

References: oneill-2014, burnham-anderson-2002, kunsch-1989, hall-horowitz-jing-1995.
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
"""Number of refits, divided among the shapes by Akaike weight."""


def block_refits(axis: TimeAxis, fitted: Iterable[Fitted], random: np.random.Generator) -> Draws:
    """Return refits to series with resampled residuals.

    Args:
        axis: times of the series.
        fitted: the shapes that the truth may have.
        random: generator of the blocks.

    References: oneill-2014, burnham-anderson-2002, kunsch-1989.
    """
    shapes = list(fitted)
    numbers = apportion(np.array([each.weight for each in shapes]), REFITS)
    curves = [
        axis.fit(each.curve.shape, each.curve.values(axis.t) + _blocks(each, number, random), rounds=1)
        for each, number in zip(shapes, numbers.tolist(), strict=True)
        if number
    ]
    return Draws(tuple(curves))


def block_length(n: int) -> int:
    """Return the chunks per block for a series of `n`: 5 for 50, growing with the cube root of `n`.

    References: hall-horowitz-jing-1995.
    """
    return max(2, round(1.4 * float(np.cbrt(n))))


def _blocks(fitted: Fitted, draws: int, random: np.random.Generator) -> Floats:
    """Return residuals resampled in moving blocks, `[n, draws]`."""
    n = len(fitted.residuals)
    length = min(n, block_length(n))
    begins = random.integers(0, n - length + 1, (-(-n // length), 1, draws))
    chosen = (begins + np.arange(length)[None, :, None]).reshape(-1, draws)[:n]
    drawn: Floats = _scaled(fitted)[chosen]
    return drawn


def _scaled(fitted: Fitted) -> Floats:
    """Return centred residuals, scaled up by √(n / (n − p)) for the p parameters that were fitted."""
    n = len(fitted.residuals)
    around: Floats = fitted.residuals - fitted.residuals.mean()
    return around * sqrt(n / (n - len(PARAMETERS[fitted.curve.shape])))
