"""What the noise of a series may be like: AR(1) noise and white noise on top of it, in unknown shares.

A slow wander and a trend trial_posteriors much the same values, and what a trend leaves is less persistent than the noise was.
So the noise is not taken from what one curve leaves: every kind of it gets odds from all curves, the constant among
them, each as far as the evidence for it goes.

The evidence is a marginal likelihood with a prior worth one chunk for each parameter: −½ ln|Σ| − (n−1)/2 ln r'Σ⁻¹r −
½ ln|X'Σ⁻¹X|, less ½ ln n for a halving time or the place of a cliff. Σ: the noise's correlations; r: what the curve
leaves; X: level and trend as columns of mean square 1.

All of this is for the question whether there is a trend. How sure a curve is comes from `trend_posterior`, which has
kinds of noise of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from math import log

import numpy as np

from moe_watch.routing.arrays import AnyInts, Floats
from moe_watch.routing.half_life.kalman import Whitening
from moe_watch.routing.half_life.shapes import PARAMETERS, SHORT, Curves, TimeAxis, curve_values

MOST_PERSISTENT = 0.95
PHIS = (0.2, 0.4, 0.6, 0.8, MOST_PERSISTENT)
"""Of the persistent part: how much of it is left one chunk later."""
SHARES = (0.25, 0.5, 0.75, 1.0)
"""Of the variance that is the persistent part's; the rest is white."""
NOISE_MODELS: Floats = np.array([(0.0, 0.0), *((phi, share) for phi in PHIS for share in SHARES)]).T
"""`[2, K]`: φ and share of each kind of noise that is considered; the first one is white."""
WHITE: Floats = np.eye(NOISE_MODELS.shape[1])[0]
"""`[K]`: odds of noise that is known to be white."""
LEAST_LEFT = 1e-300
"""Squares that a curve leaves count as this much at least, so that they have a logarithm."""


def odds(evidence: Iterable[Floats]) -> Floats:
    """How likely each kind of noise is whichever curve is right, `[K]`; sums to 1.

    Args:
        evidence: of each curve, `[K]`, see `noise_evidence`.
    """
    of_all = np.stack(list(evidence))
    likelihood = np.exp(of_all - of_all.max()).sum(axis=0)
    each_kind: Floats = likelihood / likelihood.sum()
    return each_kind


def lag_1(odds: Floats) -> float:
    """Correlation of the noise in successive chunks, 0..0.95."""
    return float(odds @ (NOISE_MODELS[0] * NOISE_MODELS[1]))


def apportioned_indices(odds: Floats, number: int) -> AnyInts:
    """`number` places, each as often as its odds say."""
    return np.repeat(np.arange(len(odds)), apportion(odds, number))


def apportion(weights: Floats, number: int) -> AnyInts:
    """`number` divided by weights that sum to 1."""
    ends = np.round(np.cumsum(weights) * number).astype(np.int64)
    ends[1:] -= ends[:-1].copy()
    return ends


def noise_evidence(axis: TimeAxis, curves: list[Curves], residuals: Floats) -> list[Floats]:
    """How well each of some curves explains the series with each kind of noise: logarithms `[K]`, up to a constant.

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
        _evidence(axis.n, each, products[:, place][:, :, place], log_det)
        for each, place in zip(curves, places, strict=True)
    ]


def _evidence(n: int, curve: Curves, products: Floats, log_det: Floats) -> Floats:
    """Of one curve, from x'Σ⁻¹y of its level, trend and residuals, `[K, 3, 3]`."""
    parameters = len(PARAMETERS[curve.shape])
    linear = min(parameters, 2)
    left = np.maximum(products[:, 2, 2], LEAST_LEFT)
    information = np.linalg.slogdet(products[:, :linear, :linear])[1] + (parameters - linear) * log(n)
    evidence: Floats = -(log_det + (n - 1) * np.log(left) + information) / 2
    return evidence


def _unit_trend(axis: TimeAxis, curve: Curves) -> Floats:
    """A curve's trend without its level and height, `[n]`: mean 0, mean square 1; 0 for the constant."""
    if curve.shape == "constant":
        return np.zeros(axis.n)
    around = curve_values(curve.shape, np.array([0.0, 1.0, *curve.parameters[2:, 0]]), axis.t)
    around = around - around.mean()
    unit: Floats = around / np.sqrt((around**2).mean())
    return unit


def _products(columns: Floats) -> tuple[Floats, Floats]:
    """x'Σ⁻¹y of all pairs of columns `[n, m]` as `[K, m, m]`, and ln|Σ| as `[K]`, for noise of standard deviation 1."""
    whitening = _whitening(len(columns))
    by_kind = whitening(columns).transpose(1, 2, 0)
    return by_kind @ by_kind.transpose(0, 2, 1), whitening.log_det


def _whitening(n: int) -> Whitening:
    return _short_whitening(n) if n <= SHORT else _long_whitening(n)


def _make_whitening(n: int) -> Whitening:
    return Whitening(NOISE_MODELS, n)


_short_whitening = lru_cache(maxsize=40)(_make_whitening)
_long_whitening = lru_cache(maxsize=2)(_make_whitening)
