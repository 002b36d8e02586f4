from __future__ import annotations

import numpy as np
import pytest

from routing.trend_gate import LIKELY, SIMULATIONS, ar1_noise, persistence, trend_p
from routing.trend_shapes import axis
from tests.routing.planted import cliff, constant, exponential, linear, noise, plant

TIMES = axis(tuple(float(t) for t in range(50)))


def p_values(planted, phi, seeds=60):
    series = [np.array(each.mid) for each in plant(planted, phi, range(seeds))]
    return np.array([trend_p(TIMES, each, phi, np.random.default_rng(0)) for each in series])


@pytest.mark.parametrize("phi", [0.0, 0.3, 0.7])
def test_p_is_what_it_says_where_there_is_no_trend(phi):
    p = p_values(constant(0.5), phi)
    assert (p <= LIKELY).mean() <= 0.1
    assert 0.35 < p.mean() < 0.65


@pytest.mark.parametrize("planted", [exponential(0.6, 0.1, 12), linear(0.5, -0.002), cliff(0.5, 0.44)])
def test_trends_are_found(planted):
    assert (p_values(planted, 0.3, seeds=20) <= LIKELY).mean() >= 0.95


def test_the_lowest_p_is_set_by_the_number_of_simulations():
    assert trend_p(TIMES, linear(0.5, -0.01).curve(), 0.0, np.random.default_rng(0)) == 1 / (SIMULATIONS + 1)


def test_p_does_not_depend_on_level_or_scale():
    (series,) = plant(constant(0.5), 0.3, range(1))
    y = np.array(series.mid)
    both = [trend_p(TIMES, each, 0.3, np.random.default_rng(0)) for each in (y, 30 - 100 * y)]
    assert both[0] == both[1]


@pytest.mark.parametrize("phi", [0.0, 0.6])
def test_simulated_noise_is_stationary_with_spread_1(phi):
    made = ar1_noise(np.random.default_rng(0), 40, 20_000, phi)
    assert made.std(axis=1) == pytest.approx(np.ones(40), abs=0.03)
    assert (made[1:] * made[:-1]).mean(axis=1) == pytest.approx(np.full(39, phi), abs=0.05)


def test_each_series_may_have_its_own_phi():
    made = ar1_noise(np.random.default_rng(0), 20_000, 2, np.array([0.0, 0.9]))
    assert (made[1:] * made[:-1]).mean(axis=0) == pytest.approx([0.0, 0.9], abs=0.05)


@pytest.mark.parametrize("phi", [0.0, 0.3, 0.5])
def test_persistence_of_long_noise_is_its_phi(phi):
    assert persistence(noise(np.random.default_rng(1), phi, chunks=20_000)) == pytest.approx(phi, abs=0.03)


def test_persistence_is_bounded():
    assert persistence(np.zeros(50)) == 0
    assert persistence(np.tile([1.0, -1.0], 25)) == 0
    assert persistence(np.linspace(-1, 1, 50)) == 0.95
    assert persistence(np.array([1.0, 1.0, -1.0, -1.0, 1.0])) <= 0.95
