"""Noise models of the trend test: AR(1) noise plus white noise, in unknown shares.

Autocorrelated noise and a trend can explain the same values, and the residuals of a trend are less autocorrelated than
the noise was. So the noise is not estimated from the residuals of one curve: each noise model gets odds from all
curves, the constant included, weighted by their evidence.

The evidence is a marginal likelihood with a prior worth one chunk for each parameter: −½ ln|Σ| − (n−1)/2 ln r'Σ⁻¹r −
½ ln|X'Σ⁻¹X|, minus ½ ln n for a halving time or a breakpoint. Σ: correlations of the noise; r: residuals of the curve;
X: level and trend as columns of mean square 1.

These models serve the trend test. Intervals come from `posterior`, which has separate noise models.

References: schwarz-1978, kass-wasserman-1995, kass-raftery-1995, aitken-1935, schweppe-1965.
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
"""Correlations of the autocorrelated part in successive chunks."""
SHARES = (0.25, 0.5, 0.75, 1.0)
"""Shares of the autocorrelated part in the variance; the rest is white."""
NOISE_MODELS: Floats = np.array([(0.0, 0.0), *((phi, share) for phi in PHIS for share in SHARES)]).T
"""`[2, K]`: φ and share of each noise model; the first one is white."""
WHITE: Floats = np.eye(NOISE_MODELS.shape[1])[0]
"""`[K]`: odds of white noise."""
LEAST_LEFT = 1e-300
"""Least squared residuals, so that they have a logarithm."""


def odds(evidence: Iterable[Floats]) -> Floats:
    """Return the odds of the noise models, summed over the curves, `[K]`; they sum to 1.

    Args:
        evidence: of each curve, `[K]`, see `noise_evidence`.

    References: kass-raftery-1995.
    """
    of_all = np.stack(list(evidence))
    likelihood = np.exp(of_all - of_all.max()).sum(axis=0)
    total: Floats = likelihood / likelihood.sum()
    return total


def lag_1(odds: Floats) -> float:
    """Return the correlation of the noise in successive chunks, 0..0.95: the mean over the noise models."""
    return float(odds @ (NOISE_MODELS[0] * NOISE_MODELS[1]))


def apportioned_indices(odds: Floats, number: int) -> AnyInts:
    """Return `number` indices of noise models, ascending, each in proportion to its odds."""
    return np.repeat(np.arange(len(odds)), apportion(odds, number))


def apportion(weights: Floats, number: int) -> AnyInts:
    """Return `number` divided in proportion to weights that sum to 1, as integers."""
    ends = np.round(np.cumsum(weights) * number).astype(np.int64)
    ends[1:] -= ends[:-1].copy()
    return ends


def noise_evidence(axis: TimeAxis, curves: list[Curves], residuals: Floats) -> list[Floats]:
    """Return the evidence of each curve with each noise model: logarithms `[K]`, up to a constant.

    Args:
        axis: times of the series.
        curves: fits to the same series.
        residuals: of each curve, `[n, curves]`.

    References: schwarz-1978, kass-wasserman-1995, kass-raftery-1995, aitken-1935.
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
    """Return the evidence of one curve, from x'Σ⁻¹y of its level, trend and residuals, `[K, 3, 3]`."""
    parameters = len(PARAMETERS[curve.shape])
    linear = min(parameters, 2)
    left = np.maximum(products[:, 2, 2], LEAST_LEFT)
    information = np.linalg.slogdet(products[:, :linear, :linear])[1] + (parameters - linear) * log(n)
    evidence: Floats = -(log_det + (n - 1) * np.log(left) + information) / 2
    return evidence


def _unit_trend(axis: TimeAxis, curve: Curves) -> Floats:
    """Return a curve's trend without its level and height, `[n]`: mean 0, mean square 1; 0 for the constant."""
    if curve.shape == "constant":
        return np.zeros(axis.n)
    around = curve_values(curve.shape, np.array([0.0, 1.0, *curve.parameters[2:, 0]]), axis.t)
    around = around - around.mean()
    unit: Floats = around / np.sqrt((around**2).mean())
    return unit


def _products(columns: Floats) -> tuple[Floats, Floats]:
    """Return x'Σ⁻¹y of all pairs of columns `[n, m]` as `[K, m, m]`, and ln|Σ| as `[K]`; the noise has variance 1.

    References: schweppe-1965.
    """
    whitening = _whitening(len(columns))
    by_model = whitening(columns).transpose(1, 2, 0)
    return by_model @ by_model.transpose(0, 2, 1), whitening.log_det


def _whitening(n: int) -> Whitening:
    return _short_whitening(n) if n <= SHORT else _long_whitening(n)


def _make_whitening(n: int) -> Whitening:
    return Whitening(NOISE_MODELS, n)


_short_whitening = lru_cache(maxsize=40)(_make_whitening)
_long_whitening = lru_cache(maxsize=2)(_make_whitening)
