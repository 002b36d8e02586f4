from __future__ import annotations

import numpy as np
import pytest

from moe_watch.routing.half_life.candidates import Candidates
from moe_watch.routing.half_life.noise import (
    NOISE_MODELS,
    WHITE,
    apportion,
    apportioned_indices,
    lag_1,
    noise_evidence,
    odds,
)
from moe_watch.routing.half_life.shapes import SHAPES, time_axis
from tests.routing.planted import (
    cliff,
    constant,
    exponential,
    heavy_tails,
    linear,
    long_memory,
    plant,
    plant_with,
    two_wanders,
    wander,
)

TIMES = time_axis(tuple(float(t) for t in range(50)))
(SERIES,) = (np.array(each.mid) for each in plant(exponential(0.6, 0.1, 12), 0.3, range(1)))


def fits(series, times=TIMES):
    return [times.fit(shape, series[:, None], rounds=8) for shape in SHAPES]


def around(series, times=TIMES):
    curves = fits(series, times)
    left = np.concatenate([series[:, None] - curve.values(times.t) for curve in curves], axis=1)
    return dict(zip(SHAPES, noise_evidence(times, curves, left), strict=True))


def correlations(kind):
    phi, share = NOISE_MODELS[:, kind]
    apart = np.abs(np.subtract.outer(np.arange(50), np.arange(50)))
    return np.where(apart == 0, 1.0, share * phi**apart)


def column(values):
    centred = values - values.mean()
    return centred / np.sqrt((centred**2).mean())


@pytest.mark.parametrize("kind", [0, 3, 14, len(NOISE_MODELS.T) - 1])
@pytest.mark.parametrize("shape", SHAPES)
def test_evidence_against_matrices(shape, kind):
    """Compute the marginal likelihood with the covariance matrix and its inverse."""
    curve = fits(SERIES)[SHAPES.index(shape)].values(TIMES.t)[:, 0]
    left, covariance, parameters = SERIES - curve, correlations(kind), {"constant": 1, "linear": 2}.get(shape, 3)
    columns = np.ones((50, 1)) if shape == "constant" else np.stack([np.ones(50), column(curve)], axis=1)
    inverse = np.linalg.inv(covariance)
    squares = left @ inverse @ left
    expected = -np.linalg.slogdet(covariance)[1] / 2 - 49 / 2 * np.log(squares)
    expected -= np.linalg.slogdet(columns.T @ inverse @ columns)[1] / 2 + (parameters == 3) * np.log(50) / 2
    found = around(SERIES)[shape]
    assert found[kind] == pytest.approx(expected)


@pytest.mark.parametrize(("phi", "expected"), [(0.0, 0.0), (0.4, 0.4), (0.8, 0.8)])
def test_the_noise_of_a_long_series_is_found(phi, expected):
    times = time_axis(tuple(float(t) for t in range(2000)))
    (series,) = (np.array(each.mid) for each in plant(constant(0.5), phi, range(1), chunks=2000))
    assert lag_1(odds(around(series, times).values())) == pytest.approx(expected, abs=0.08)


def test_a_wander_with_white_noise_is_told_from_ar1():
    times = time_axis(tuple(float(t) for t in range(2000)))
    (series,) = (np.array(each.mid) for each in plant_with(constant(0.5), wander(0.8, 0.5), range(1), chunks=2000))
    found = odds(around(series, times).values())
    assert NOISE_MODELS[:, found.argmax()] == pytest.approx([0.8, 0.5])
    assert found[NOISE_MODELS[1] == 1].sum() < 1e-6


@pytest.mark.parametrize("planted", [linear(0.6, -0.01), exponential(0.6, 0.1, 12), cliff(0.6, 0.25)])
def test_a_clear_trend_is_not_taken_for_persistent_noise(planted):
    for each in plant(planted, 0.0, range(10)):
        found = around(np.array(each.mid))
        assert found["constant"].max() < found[planted.shape].max() - 10
        assert lag_1(odds(found.values())) < 0.3


def test_a_wander_keeps_the_constant_in_the_running():
    """The residuals of the closest trend are less autocorrelated than the noise."""
    shares = []
    for each in plant_with(constant(0.46), wander(0.9, 0.5), range(40)):
        found = around(np.array(each.mid))
        trends = odds(found[shape] for shape in SHAPES[1:])
        shares.append((lag_1(odds(found.values())), lag_1(trends)))
    with_constant, without = np.mean(shares, axis=0)
    assert with_constant > without + 0.02


@pytest.mark.parametrize(
    "noise",
    [wander(0.75, 0.55), wander(0.95, 0.3), long_memory(0.3), two_wanders(0.5, 0.97), heavy_tails(0.75, 0.55)],
    ids=lambda each: each.name,
)
def test_planted_noise_has_spread_1_and_is_not_ar1(noise):
    made = np.stack([noise.make(np.random.default_rng(seed), 60) for seed in range(3000)])
    first, third = ((made[:, lag:] * made[:, :-lag]).mean() for lag in (1, 3))
    assert made.std() == pytest.approx(1, abs=0.05)
    assert third > first**3 + 0.05


def test_places_are_as_many_as_their_odds_say():
    found = apportioned_indices(np.array([0.5, 0.0, 0.3, 0.2]), 10)
    assert found.tolist() == [0] * 5 + [2] * 3 + [3] * 2
    assert apportion(np.full(3, 1 / 3), 400).sum() == 400


def test_odds_sum_over_explanations():
    likely, unlikely = np.log([3.0, 1.0]), np.log([1.0, 1.0])
    assert odds([likely]) == pytest.approx([0.75, 0.25])
    assert odds([likely, unlikely]) == pytest.approx([4 / 6, 2 / 6])


@pytest.mark.parametrize("series", [np.full(20, 0.3), linear(0.6, -0.01).curve(chunks=20), np.array([0.0, 1.0] * 10)])
def test_evidence_is_finite_whatever_the_series(series):
    times = time_axis(tuple(float(t) for t in range(20)))
    assert all(np.isfinite(each).all() for each in around(series, times).values())


def test_nothing_left_is_white():
    times = time_axis(tuple(float(t) for t in range(20)))
    assert Candidates(times, linear(0.6, -0.01).curve(chunks=20), 0).noise is WHITE
    assert Candidates(TIMES, SERIES, 0).noise[0] < 1
