from __future__ import annotations

import numpy as np
import pytest

from moe_watch.routing.half_life.noise import NOISE_MODELS, WHITE
from moe_watch.routing.half_life.shapes import time_axis
from moe_watch.routing.half_life.trend_detection import MORE, SIMULATIONS, ar1_noise, noise_of_models, trend_p
from tests.routing.planted import cliff, constant, exponential, linear, plant

TIMES = time_axis(tuple(float(t) for t in range(50)))


def persistent(phi):
    """Return odds of 1 for AR(1) noise with this φ."""
    return ((NOISE_MODELS[0] == phi) & ((NOISE_MODELS[1] == 1) | (phi == 0))).astype(float)


def p_values(planted, phi, seeds=60):
    series = [np.array(each.mid) for each in plant(planted, phi, range(seeds))]
    return np.array([trend_p(TIMES, each, persistent(phi), np.random.default_rng(0)) for each in series])


@pytest.mark.parametrize("phi", [0.0, 0.4, 0.8])
def test_p_is_what_it_says_where_there_is_no_trend(phi):
    p = p_values(constant(0.5), phi)
    assert (p <= 0.02).mean() <= 0.1
    assert 0.35 < p.mean() < 0.65


@pytest.mark.parametrize("planted", [exponential(0.6, 0.1, 12), linear(0.5, -0.002), cliff(0.5, 0.44)])
def test_trends_are_found(planted):
    assert (p_values(planted, 0.4, seeds=20) <= 0.02).mean() >= 0.95


def test_the_lowest_p_is_set_by_the_number_of_simulations():
    assert trend_p(TIMES, linear(0.5, -0.01).curve(), WHITE, np.random.default_rng(0)) == 1 / (SIMULATIONS + MORE + 1)


def test_p_does_not_depend_on_level_or_scale():
    (series,) = plant(constant(0.5), 0.3, range(1))
    y = np.array(series.mid)
    both = [trend_p(TIMES, each, persistent(0.4), np.random.default_rng(0)) for each in (y, 30 - 100 * y)]
    assert both[0] == both[1]


@pytest.mark.parametrize("phi", [0.0, 0.6])
def test_simulated_noise_is_stationary_with_spread_1(phi):
    made = ar1_noise(np.random.default_rng(0), 40, 20_000, phi)
    assert made.std(axis=1) == pytest.approx(np.ones(40), abs=0.03)
    assert (made[1:] * made[:-1]).mean(axis=1) == pytest.approx(np.full(39, phi), abs=0.05)


def test_each_series_may_have_its_own_phi():
    made = ar1_noise(np.random.default_rng(0), 20_000, 2, np.array([0.0, 0.9]))
    assert (made[1:] * made[:-1]).mean(axis=0) == pytest.approx([0.0, 0.9], abs=0.05)


def test_every_kind_of_noise_is_stationary_with_its_own_correlations():
    each = len(NOISE_MODELS.T)
    made = noise_of_models(np.random.default_rng(0), 40, np.repeat(np.arange(each), 4000)).reshape(40, each, 4000)
    phi, share = NOISE_MODELS
    assert made.std(axis=2) == pytest.approx(np.ones((40, each)), abs=0.06)
    for lag in (1, 3):
        found = (made[lag:] * made[:-lag]).mean(axis=(0, 2))
        assert found == pytest.approx(share * phi**lag, abs=0.05)


def test_p_is_larger_where_the_noise_may_be_persistent():
    y = np.array(next(plant(linear(0.5, -0.0005), 0.0, range(1))).mid)
    p = [trend_p(TIMES, y, odds, np.random.default_rng(0)) for odds in (WHITE, persistent(0.8))]
    assert p[0] < 0.1 < p[1]
