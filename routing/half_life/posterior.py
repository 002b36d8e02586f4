"""How sure a fitted curve is: curves drawn from what the series leaves possible, the noise being unknown as well.

Tried is every combination of a shape, its time (a halving time, or the place of a cliff) and a kind of noise. Given
one, level and height enter linearly. With priors flat in both and in ln σ, its evidence is the restricted likelihood

    −½ ln|Σ| − ½ ln|X'Σ⁻¹X| − (n−p)/2 · ln r'Σ⁻¹r + ln prior

with Σ the noise's correlations, X the p columns, and r what they leave by generalised least squares. Each draw is a
combination, a variance (r'Σ⁻¹r over a χ² of n−p degrees of freedom), and the normal level and height given these.

A curve takes part of a slow wander along, so the noise is not taken from what one fitted curve leaves: refitting such a
curve to itself gave 95 % intervals that held the truth in as little as 73 % of the runs (docs/calibration.md).
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
"""Chunks after which 1/e of the persistent part is left: every scale is as likely as the next."""
SLOWEST = 2
"""Series' lengths below which that must be: what wanders more slowly is a level."""
SHARES = (1 / 3, 2 / 3, 1.0)
"""Of the variance that is the persistent part's."""
LEAST_LEFT = 1e-14
"""Share of the squares that a trial leaves at least: less is rounding."""
SMALLEST = 1e-300
"""What squares are at least, so that they have a logarithm."""


@dataclass(frozen=True, slots=True)
class TrialPosterior:
    """A series by every trial of one shape with every kind of noise, `[K, m]` each."""

    trials: Trials
    evidence: Floats
    """Logarithm of how likely the combination is, up to a constant."""
    height: Floats
    height_variance: Floats
    """Over σ²."""
    level: Floats
    """At height 0."""
    level_variance: Floats
    """Over σ², at a given height."""
    tilt: Floats
    """By how much the level falls when the height rises by 1."""
    squares: Floats
    """r'Σ⁻¹r."""
    freedom: int
    """Their degrees of freedom."""

    def draw(self, combinations: AnyInts, random: np.random.Generator) -> Curves:
        """A curve for each of `combinations [S]`, which count all kinds of noise's trials in a row."""
        kind, trial = np.unravel_index(combinations, self.evidence.shape)
        sigma = np.sqrt(self.squares[kind, trial] / random.chisquare(self.freedom, len(trial)))
        by_height, by_level = random.standard_normal((2, len(trial)))
        height = self.height[kind, trial] + sigma * np.sqrt(self.height_variance[kind, trial]) * by_height
        level = self.level[kind, 0] - self.tilt[kind, trial] * height
        return self.trials.curves(trial, level + sigma * np.sqrt(self.level_variance[kind, 0]) * by_level, height)


def posterior_draws(axis: TimeAxis, series: Floats, fitted: Iterable[Fitted], random: np.random.Generator) -> Draws:
    """Curves that the truth may be.

    Args:
        axis: of the series.
        series: `[n]`.
        fitted: the shapes that it may have, equally likely beforehand: either the constant alone, or trends.
        random: of the draws.
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
    """The series by each shape that it may have."""
    whitening, tried = _whitening(axis.n), [trials(axis, each) for each in fitted]
    plain, found = products(tried, series - series.mean(), whitening)
    return [_explained(each, own, plain, series, whitening.log_det) for each, own in zip(tried, found, strict=True)]


def _explained(tried: Trials, own: Products, plain: Products, series: Floats, log_det: Floats) -> TrialPosterior:
    """By one shape, from the products of its trials and those of a level of 1 and of the series."""
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
    """φ and share of each kind of noise that a series of `n` may have, `[2, K]`; the first one is white.

    All are equally likely beforehand. More of them are persistent than of those that judge whether there is a trend:
    there too persistent a kind hides a cliff, here it only widens an interval.
    """
    phis = [exp(-1 / time) for time in PERSISTENCE if time < SLOWEST * n]
    kinds: Floats = np.array([(0.0, 0.0), *((phi, share) for phi in phis for share in SHARES)]).T
    return kinds


@lru_cache(maxsize=4)
def _whitening(n: int) -> Whitening:
    return Whitening(noise_models(n), n)
