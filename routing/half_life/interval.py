"""Posterior of the curve, with unknown noise: the source of intervals and bands.

The posterior covers every combination of a shape, its time (a halving time or a breakpoint) and a noise model. Given a
combination, level and height enter linearly. With priors flat in both and in ln σ, its evidence is the restricted
likelihood

    −½ ln|Σ| − ½ ln|X'Σ⁻¹X| − (n−p)/2 · ln r'Σ⁻¹r + ln prior

with Σ the correlations of the noise, X the p columns, and r the residuals of generalised least squares. A draw consists
of a combination, a variance (r'Σ⁻¹r over a χ² of n−p degrees of freedom), and a normal level and height given these.

A fitted curve absorbs part of autocorrelated noise, so the noise is not estimated from the residuals of one curve:
refitting such a curve to simulations from itself gave 95 % intervals with a coverage down to 73 %
(docs/calibration.md).

References: oneill-2014, kass-raftery-1995, aitken-1935, patterson-thompson-1971, harville-1974, schweppe-1965.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from math import exp

import numpy as np

from moe_watch.routing.arrays import AnyInts, Floats
from moe_watch.routing.half_life.draws import Draws, Fitted
from moe_watch.routing.half_life.kalman import Whitening
from moe_watch.routing.half_life.noise import apportioned_indices
from moe_watch.routing.half_life.shapes import Curves, TimeAxis
from moe_watch.routing.half_life.trial_curves import Products, Trials, products, trials

DRAWS = 1000
PERSISTENCE = (2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
"""Chunks in which the correlation of the autocorrelated part falls to 1/e; every value has the same prior."""
SLOWEST = 2
"""Upper limit of these times, in lengths of the series: slower noise is indistinguishable from a level."""
SHARES = (1 / 3, 2 / 3, 1.0)
"""Shares of the autocorrelated part in the variance."""
LEAST_LEFT = 1e-14
"""Least squared residuals of a trial, as a share of the squares about the level: smaller ones are rounding."""
SMALLEST = 1e-300
"""Least squares, so that they have a logarithm."""


@dataclass(frozen=True, slots=True)
class TrialPosterior:
    """Posterior of one shape: all trials with all noise models, `[K, m]` each."""

    trials: Trials
    evidence: Floats
    """Log evidence of the combination, up to a constant."""
    height: Floats
    height_variance: Floats
    """Variance of the height, over σ²."""
    level: Floats
    """Mean of the level at height 0."""
    level_variance: Floats
    """Variance of the level at a given height, over σ²."""
    tilt: Floats
    """Fall of the level when the height rises by 1."""
    squares: Floats
    """r'Σ⁻¹r."""
    freedom: int
    """Degrees of freedom of the squares."""

    def draw(self, combinations: AnyInts, random: np.random.Generator) -> Curves:
        """Return a curve for each of `combinations [S]`, which are flat indices of `evidence`."""
        model, trial = np.unravel_index(combinations, self.evidence.shape)
        sigma = np.sqrt(self.squares[model, trial] / random.chisquare(self.freedom, len(trial)))
        by_height, by_level = random.standard_normal((2, len(trial)))
        height = self.height[model, trial] + sigma * np.sqrt(self.height_variance[model, trial]) * by_height
        level = self.level[model, 0] - self.tilt[model, trial] * height
        return self.trials.curves(trial, level + sigma * np.sqrt(self.level_variance[model, 0]) * by_level, height)


def posterior_draws(axis: TimeAxis, series: Floats, fitted: Iterable[Fitted], random: np.random.Generator) -> Draws:
    """Draw curves from the posterior.

    Args:
        axis: times of the series.
        series: `[n]`.
        fitted: the shapes that it may have, with equal prior: either the constant alone, or trends.
        random: generator of the draws.

    References: oneill-2014, patterson-thompson-1971, harville-1974.
    """
    explained = trial_posteriors(axis, series, fitted)
    evidence = np.concatenate([each.evidence.ravel() for each in explained])
    likelihood = np.exp(evidence - evidence.max())
    drawn = apportioned_indices(likelihood / likelihood.sum(), DRAWS)
    curves, first = [], 0
    for each in explained:
        own = drawn[(first <= drawn) & (drawn < first + each.evidence.size)] - first
        first += each.evidence.size
        if own.size:
            curves.append(each.draw(own, random))
    return Draws(tuple(curves))


def trial_posteriors(axis: TimeAxis, series: Floats, fitted: Iterable[Fitted]) -> list[TrialPosterior]:
    """Return the posterior of each shape that the series may have."""
    whitening, tried = _whitening(axis.n), [trials(axis, each) for each in fitted]
    plain, found = products(tried, series - series.mean(), whitening)
    return [_explained(each, own, plain, series, whitening.log_det) for each, own in zip(tried, found, strict=True)]


def _explained(tried: Trials, own: Products, plain: Products, series: Floats, log_det: Floats) -> TrialPosterior:
    """Return the posterior of one shape.

    Args:
        tried: its trials.
        own: products of the trials.
        plain: products of a level of 1 and of the series.
        series: `[n]`.
        log_det: ln|Σ|, `[K]`.

    References: kass-raftery-1995, aitken-1935, patterson-thompson-1971, harville-1974, schweppe-1965.
    """
    ones, with_series, square = plain.level[:, :1], plain.series[:, :1], plain.square[:, 1:]
    tilt, beside_level = own.level / ones, square - with_series**2 / ones
    heights = own.square - own.level * tilt
    constant = tried.shape == "constant"
    variance = np.zeros_like(heights) if constant else 1 / heights
    height = (own.series - with_series * tilt) * variance
    left = np.maximum(beside_level - height**2 * heights, np.maximum(LEAST_LEFT * beside_level, SMALLEST))
    information = np.log(ones) + (0 if constant else np.log(heights))
    freedom = len(series) - (1 if constant else 2)
    evidence = np.log(tried.prior) - (log_det[:, None] + information + freedom * np.log(left)) / 2
    at_no_height = series.mean() + with_series / ones
    return TrialPosterior(tried, evidence, height, variance, at_no_height, 1 / ones, tilt, left, freedom)


def noise_models(n: int) -> Floats:
    """Return φ and share of each noise model for a series of `n` chunks, `[2, K]`; the first model is white.

    All have the same prior. More of these models are strongly autocorrelated than of the models of the trend test:
    there such a model hides a cliff, here it only widens an interval.
    """
    phis = [exp(-1 / time) for time in PERSISTENCE if time < SLOWEST * n]
    models: Floats = np.array([(0.0, 0.0), *((phi, share) for phi in phis for share in SHARES)]).T
    return models


@lru_cache(maxsize=4)
def _whitening(n: int) -> Whitening:
    return Whitening(noise_models(n), n)
