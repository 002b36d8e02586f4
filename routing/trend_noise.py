"""What the noise of a series may be like: AR(1) noise and white noise on top of it, in unknown shares.

A slow wander and a trend explain much the same values, and what a trend leaves is less persistent than the noise was.
So the noise is not taken from what one curve leaves: every kind of it gets odds from all curves, the constant among
them, each as far as the evidence for it goes.

The evidence is a marginal likelihood with a prior worth one chunk for each parameter: −½ ln|Σ| − (n−1)/2 ln r'Σ⁻¹r −
½ ln|X'Σ⁻¹X|, less ½ ln n for a halving time or the place of a cliff. Σ: the noise's correlations; r: what the curve
leaves; X: level and trend as columns of mean square 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from math import log
from typing import NamedTuple

import numpy as np

from routing.arrays import AnyInts, Floats
from routing.trend_shapes import PARAMETERS, Axis, Curves, curve_values

MOST_PERSISTENT = 0.95
PHIS = (0.2, 0.4, 0.6, 0.8, MOST_PERSISTENT)
"""Of the persistent part: how much of it is left one chunk later."""
SHARES = (0.25, 0.5, 0.75, 1.0)
"""Of the variance that is the persistent part's; the rest is white."""
KINDS: Floats = np.array([(0.0, 0.0), *((phi, share) for phi in PHIS for share in SHARES)]).T
"""`[2, K]`: φ and share of each kind of noise that is considered; the first one is white."""
WHITE: Floats = np.eye(KINDS.shape[1])[0]
"""`[K]`: odds of noise that is known to be white."""
LEAST_LEFT = 1e-300
"""Squares that a curve leaves count as this much at least, so that they have a logarithm."""


@dataclass(frozen=True, slots=True)
class NoiseAround:
    """The noise around one fitted curve, by kind."""

    evidence: Floats
    """`[K]`: logarithm of how well the curve with this kind of noise explains the series, up to a constant."""
    spread: Floats
    """`[K]`: standard deviation of noise of this kind, before parameters were fitted to it."""

    @property
    def odds(self) -> Floats:
        """`[K]`: how likely each kind is if the curve is right; sums to 1."""
        return odds([self])


def odds(explanations: Iterable[NoiseAround]) -> Floats:
    """How likely each kind of noise is whichever curve is right, `[K]`; sums to 1."""
    evidence = np.stack([each.evidence for each in explanations])
    likelihood = np.exp(evidence - evidence.max()).sum(axis=0)
    each_kind: Floats = likelihood / likelihood.sum()
    return each_kind


def lag_1(odds: Floats) -> float:
    """Correlation of the noise in successive chunks, 0..0.95."""
    return float(odds @ (KINDS[0] * KINDS[1]))


def kinds(odds: Floats, number: int) -> AnyInts:
    """As many of each kind as its odds say, `number` in all."""
    return np.repeat(np.arange(len(odds)), shared_out(odds, number))


def shared_out(weights: Floats, number: int) -> AnyInts:
    """`number` divided by weights that sum to 1."""
    ends = np.round(np.cumsum(weights) * number).astype(np.int64)
    ends[1:] -= ends[:-1].copy()
    return ends


def noise_around(axis: Axis, curves: list[Curves], residuals: Floats) -> list[NoiseAround]:
    """What the noise may be around each of some curves.

    Args:
        axis: of the series.
        curves: each fitted to the one series.
        residuals: what each leaves, `[n, curves]`.
    """
    count = len(curves)
    trends = [_unit_trend(axis, each) for each in curves]
    products, log_det = _products(np.column_stack([np.ones(axis.n), *trends, residuals]))
    places = [[0, 1 + at, 1 + count + at] for at in range(count)]
    return [
        _noise_around(axis.n, each, products[:, place][:, :, place], log_det)
        for each, place in zip(curves, places, strict=True)
    ]


def _noise_around(n: int, curve: Curves, products: Floats, log_det: Floats) -> NoiseAround:
    """The noise around a curve, from x'Σ⁻¹y of its level, trend and residuals, `[K, 3, 3]`."""
    parameters = len(PARAMETERS[curve.shape])
    linear = min(parameters, 2)
    left = np.maximum(products[:, 2, 2], LEAST_LEFT)
    information = np.linalg.slogdet(products[:, :linear, :linear])[1] + (parameters - linear) * log(n)
    return NoiseAround(-(log_det + (n - 1) * np.log(left) + information) / 2, np.sqrt(left / (n - parameters)))


def _unit_trend(axis: Axis, curve: Curves) -> Floats:
    """A curve's trend without its level and height, `[n]`: mean 0, mean square 1; 0 for the constant."""
    if curve.shape == "constant":
        return np.zeros(axis.n)
    around = curve_values(curve.shape, np.array([0.0, 1.0, *curve.parameters[2:, 0]]), axis.t)
    around = around - around.mean()
    unit: Floats = around / np.sqrt((around**2).mean())
    return unit


def _products(columns: Floats) -> tuple[Floats, Floats]:
    """x'Σ⁻¹y of all pairs of columns `[n, m]` as `[K, m, m]`, and ln|Σ| as `[K]`, for noise of standard deviation 1.

    Each value is compared with what the values before it say about the persistent part (a Kalman filter).
    """
    filters = _filters(len(columns))
    errors = np.empty((*filters.spread.shape, columns.shape[1]))
    expected, phi = np.zeros(errors.shape[1:]), KINDS[0][:, None]
    for at, row in enumerate(columns):
        error = np.subtract(row, expected, out=errors[at])
        expected *= phi
        expected += filters.gain[at] * error
    errors /= filters.spread[:, :, None]
    by_kind = errors.transpose(1, 2, 0)
    return by_kind @ by_kind.transpose(0, 2, 1), 2 * np.log(filters.spread).sum(axis=0)


class _Filters(NamedTuple):
    """Of every kind, for a series of `n`."""

    gain: Floats
    """`[n, K, 1]`: which part of an error goes on to the next value."""
    spread: Floats
    """`[n, K]`: standard deviation of the errors."""


@lru_cache(maxsize=4)
def _filters(n: int) -> _Filters:
    phi, share = KINDS
    gain, spread = np.empty((n, len(phi), 1)), np.empty((n, len(phi)))
    unknown = share
    for at in range(n):
        variance = unknown + 1 - share
        gain[at, :, 0], spread[at] = phi * unknown / variance, np.sqrt(variance)
        unknown = phi**2 * unknown * (1 - unknown / variance) + share * (1 - phi**2)
    return _Filters(gain, spread)
