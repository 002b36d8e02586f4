"""The curves that are tried for a series: of each shape, one for each time that it may have.

A trial is a level and a height times a column of mean 0 and mean square 1, so that heights of all shapes mean the same.
`m` trials of one shape, `K` kinds of noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import NamedTuple

import numpy as np

from moe_watch.routing.arrays import AnyInts, Floats
from moe_watch.routing.half_life.draws import Fitted
from moe_watch.routing.half_life.kalman import Whitening
from moe_watch.routing.half_life.shapes import Curves, CurveShape, TimeAxis, curve_values

HALVINGS = 64
"""Halving times that are tried."""
FINEST, COARSEST = 1e-8, 1.0
"""Standard error of a halving time's logarithm counts as this much at least and at most."""


@dataclass(frozen=True, slots=True)
class Trials:
    """Curves of one shape."""

    shape: CurveShape
    times: Floats
    """`[m]`: halving time or place; 0 where the shape has none."""
    prior: Floats
    """`[m]`: how likely each time is beforehand if the shape is right; sums to 1."""
    mean: Floats
    """`[m]`: of the column before it was made one of mean 0."""
    size: Floats
    """`[m]`: its standard deviation before."""
    columns: Floats | None
    """`[n, m]`; None for cliffs, whose products are sums."""

    def curves(self, at: AnyInts, level: Floats, height: Floats) -> Curves:
        """Of trials `at [S]` with these levels and heights `[S]`."""
        if self.shape == "constant":
            return Curves(self.shape, level[None])
        change = height / self.size[at]
        before = level - change * self.mean[at]
        if self.shape == "linear":
            return Curves(self.shape, np.stack([before, change]))
        ends = (before + change, before) if self.shape == "exponential" else (before, before + change)
        return Curves(self.shape, np.stack([*ends, self.times[at]]))


class Products(NamedTuple):
    """x'Σ⁻¹y of trials x, `[K, m]` each."""

    square: Floats
    """y = x."""
    level: Floats
    """y = 1."""
    series: Floats
    """y is the series."""


def trials(axis: TimeAxis, fitted: Fitted) -> Trials:
    """What is tried of one shape."""
    shape, n = fitted.curve.shape, axis.n
    if shape == "cliff":
        after = np.arange(n - 1, 0, -1) / n
        return Trials(shape, axis.t[1:], np.full(n - 1, 1 / (n - 1)), after, np.sqrt(after * (1 - after)), None)
    if shape == "exponential":
        halvings, prior = _halvings(axis, fitted)
        return _of_columns(shape, halvings, prior, np.exp2(-axis.t[:, None] / halvings))
    return _of_columns(shape, np.zeros(1), np.ones(1), (axis.t if shape == "linear" else 0 * axis.t)[:, None])


def products(tried: list[Trials], series: Floats, whitening: Whitening) -> tuple[Products, list[Products]]:
    """Those of a level of 1 and of the series `[n]`, as two trials, and those of all that is tried."""
    columns = [each.columns for each in tried if each.columns is not None]
    left = whitening(np.concatenate([np.stack([np.ones_like(series), series], axis=1), *columns], axis=1))
    square = np.einsum("nkm,nkm->km", left, left)
    whole = Products(square, *(np.einsum("nkm,nk->km", left, left[:, :, at]) for at in (0, 1)))
    plain, first, found = _some(whole, 0, 2), 2, []
    for each in tried:
        if each.columns is None:
            found.append(_of_steps(each, plain, whitening, left[:, :, :2]))
        else:
            found.append(_some(whole, first, first + len(each.times)))
            first += len(each.times)
    return plain, found


def _some(whole: Products, first: int, last: int) -> Products:
    return Products(*(each[:, first:last] for each in whole))


def _of_columns(shape: CurveShape, times: Floats, prior: Floats, columns: Floats) -> Trials:
    mean, size = columns.mean(axis=0), columns.std(axis=0)
    unit = np.divide(columns - mean, size, out=np.zeros_like(columns), where=size > 0)
    return Trials(shape, times, prior, mean, size, unit)


def _of_steps(cliffs: Trials, plain: Products, whitening: Whitening, left: Floats) -> Products:
    """Of columns that are steps less their mean.

    Args:
        cliffs: the trials.
        plain: products of a level of 1 and of the series.
        whitening: of the series.
        left: what it leaves of the two, `[n, K, 2]`.
    """
    mean, size, ones = cliffs.mean, cliffs.size, plain.level[:, :1]
    level, series = np.moveaxis(whitening.steps(left)[1:], (0, 2), (2, 0))
    square = whitening.step_squares[1:].T - mean * (2 * level - mean * ones)
    return Products(square / size**2, (level - mean * ones) / size, (series - mean * plain.series[:, :1]) / size)


def _halvings(axis: TimeAxis, fitted: Fitted) -> tuple[Floats, Floats]:
    """Halving times `[HALVINGS]` and their prior, which is flat in the logarithm.

    They lie the closer the nearer they are to the fitted one, on the scale of its standard error: as far as the series
    tells them apart.
    """
    low, high = np.log(axis.halvings[[0, -1]])
    best = float(np.clip(np.log(fitted.curve.parameters[2, 0]), low, high))
    error = _standard_error(axis, fitted)
    ends = np.arcsinh((np.array([low, high]) - best) / error)
    logs = best + error * np.sinh(np.linspace(ends[0], ends[1], HALVINGS))
    widths = np.gradient(logs)
    return np.exp(logs), widths / widths.sum()


def _standard_error(axis: TimeAxis, fitted: Fitted) -> float:
    """Of the logarithm of a fitted halving time, were the noise white."""
    start, floor, halving = fitted.curve.parameters[:, 0]
    decay = curve_values("exponential", np.array([1.0, 0.0, halving]), axis.t)
    change = (start - floor) * decay * np.log(2) * axis.t / halving
    linear = np.linalg.qr(np.stack([np.ones(axis.n), decay], axis=1))[0]
    own = change - linear @ (linear.T @ change)
    size, left = sqrt(own @ own), sqrt(fitted.residuals @ fitted.residuals / (axis.n - 3))
    return float(np.clip(left / size, FINEST, COARSEST)) if size else COARSEST
