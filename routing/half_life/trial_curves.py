"""Trial curves of the posterior: for each shape, one trial for each halving time or breakpoint.

A trial is a level plus a height times a column of mean 0 and mean square 1, so that heights of all shapes are
comparable. Shapes: `m` trials of one shape, `K` noise models.

References: golub-pereyra-1973, aitken-1935.
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
"""Number of halving times."""
FINEST, COARSEST = 1e-8, 1.0
"""Limits of the standard error of a halving time's logarithm."""


@dataclass(frozen=True, slots=True)
class Trials:
    """Trials of one shape."""

    shape: CurveShape
    times: Floats
    """`[m]`: halving time or breakpoint; 0 if the shape has none."""
    prior: Floats
    """`[m]`: prior of each time, given the shape; sums to 1."""
    mean: Floats
    """`[m]`: mean of the column before normalization."""
    size: Floats
    """`[m]`: standard deviation of the column before normalization."""
    columns: Floats | None
    """`[n, m]`; None for cliffs, whose products are sums."""

    def curves(self, at: AnyInts, level: Floats, height: Floats) -> Curves:
        """Return the curves of trials `at [S]` with these levels and heights `[S]`."""
        if self.shape == "constant":
            return Curves(self.shape, level[None])
        change = height / self.size[at]
        before = level - change * self.mean[at]
        if self.shape == "linear":
            return Curves(self.shape, np.stack([before, change]))
        ends = (before + change, before) if self.shape == "exponential" else (before, before + change)
        return Curves(self.shape, np.stack([*ends, self.times[at]]))


class Products(NamedTuple):
    """Products x'Σ⁻¹y of trials x, `[K, m]` each."""

    square: Floats
    """y = x."""
    level: Floats
    """y = 1."""
    series: Floats
    """y is the series."""


def trials(axis: TimeAxis, fitted: Fitted) -> Trials:
    """Return the trials of one shape.

    References: golub-pereyra-1973.
    """
    shape, n = fitted.curve.shape, axis.n
    if shape == "cliff":
        after = np.arange(n - 1, 0, -1) / n
        return Trials(shape, axis.t[1:], np.full(n - 1, 1 / (n - 1)), after, np.sqrt(after * (1 - after)), None)
    if shape == "exponential":
        halvings, prior = _halvings(axis, fitted)
        return _of_columns(shape, halvings, prior, np.exp2(-axis.t[:, None] / halvings))
    return _of_columns(shape, np.zeros(1), np.ones(1), (axis.t if shape == "linear" else 0 * axis.t)[:, None])


def products(tried: list[Trials], series: Floats, whitening: Whitening) -> tuple[Products, list[Products]]:
    """Return the products of two columns, a level of 1 and the series, and the products of all trials.

    Args:
        tried: trials of each shape.
        series: `[n]`.
        whitening: of the series.

    References: aitken-1935.
    """
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
    """Return the products of columns that are steps minus their mean.

    Args:
        cliffs: the trials.
        plain: products of a level of 1 and of the series.
        whitening: of the series.
        left: prediction errors of a level of 1 and of the series, `[n, K, 2]`.
    """
    mean, size, ones = cliffs.mean, cliffs.size, plain.level[:, :1]
    level, series = np.moveaxis(whitening.steps(left)[1:], (0, 2), (2, 0))
    square = whitening.step_squares[1:].T - mean * (2 * level - mean * ones)
    return Products(square / size**2, (level - mean * ones) / size, (series - mean * plain.series[:, :1]) / size)


def _halvings(axis: TimeAxis, fitted: Fitted) -> tuple[Floats, Floats]:
    """Return halving times `[HALVINGS]` and their prior, which is flat in the logarithm.

    The times are closest to each other near the fitted one, on the scale of its standard error: the resolution that
    the series allows.
    """
    low, high = np.log(axis.halvings[[0, -1]])
    best = float(np.clip(np.log(fitted.curve.parameters[2, 0]), low, high))
    error = _standard_error(axis, fitted)
    ends = np.arcsinh((np.array([low, high]) - best) / error)
    logs = best + error * np.sinh(np.linspace(ends[0], ends[1], HALVINGS))
    widths = np.gradient(logs)
    return np.exp(logs), widths / widths.sum()


def _standard_error(axis: TimeAxis, fitted: Fitted) -> float:
    """Return the standard error of the logarithm of a fitted halving time, under white noise."""
    start, floor, halving = fitted.curve.parameters[:, 0]
    decay = curve_values("exponential", np.array([1.0, 0.0, halving]), axis.t)
    change = (start - floor) * decay * np.log(2) * axis.t / halving
    linear = np.linalg.qr(np.stack([np.ones(axis.n), decay], axis=1))[0]
    own = change - linear @ (linear.T @ change)
    size, left = sqrt(own @ own), sqrt(fitted.residuals @ fitted.residuals / (axis.n - 3))
    return float(np.clip(left / size, FINEST, COARSEST)) if size else COARSEST
