from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import linregress

from moe_watch.routing.half_life.chronomoe import EntropyCollapse, entropy_collapse, reference_numbers, reference_shape
from tests.routing.planted import cliff, constant, exponential, linear, noise, plant


@pytest.mark.parametrize("planted", [constant(0.45), exponential(0.6, 0.1, 12), cliff(0.6, 0.25)])
def test_against_an_independent_computation(planted):
    (series,) = plant(planted, 0.3, range(1))
    y, t = np.array(series.mid), np.arange(50)
    found = reference_numbers(series.mid)
    tau = linregress(t, np.log(np.abs(y - min(y)) + 0.01)).slope
    drops = [b - a for a, b in zip(series.mid, series.mid[1:], strict=False)]
    assert found.linear_slope == pytest.approx(linregress(t, y).slope)
    assert found.exponential_tau == (pytest.approx(-1 / tau) if tau < 0 else None)
    assert (found.max_single_drop, found.max_drop_at_chunk) == (min(drops), drops.index(min(drops)))
    assert found.mean == pytest.approx(sum(series.mid) / 50)
    assert found.std == pytest.approx((sum((each - found.mean) ** 2 for each in series.mid) / 50) ** 0.5)
    assert (found.min, found.max) == (min(series.mid), max(series.mid))
    assert (found.initial_pressure, found.final_pressure) == (series.mid[0], series.mid[-1])
    assert found.total_decay == series.mid[-1] - series.mid[0]


@pytest.mark.parametrize("level", [0.1, 0.6403, -0.3])
def test_a_flat_series_has_no_tau(level):
    found = reference_numbers([level] * 49)
    assert found.exponential_tau is None
    assert found.linear_slope == found.max_single_drop == found.max_drop_at_chunk == 0


def test_what_the_reference_calls_them():
    def shape(values):
        return reference_shape(reference_numbers(list(values)))

    assert shape(constant(0.5).curve()) == "stable"
    assert shape(cliff(0.6, 0.25).curve(20)) == "cliff"
    assert shape(exponential(0.6, 0.1, 12).curve()) == "exponential"
    assert shape(linear(0.6, -0.01).curve()) == "exponential"
    falls = reference_numbers(linear(0.6, -0.01).curve().tolist())
    assert reference_shape(replace(falls, exponential_tau=None)) == "linear"
    assert shape(0.5 + noise(np.random.default_rng(0), 0.0)) == "stable"


def test_entropy_collapse_by_hand():
    assert entropy_collapse([0.9] * 3 + [0.8] * 4 + [0.5] * 3) == EntropyCollapse(
        pytest.approx(0.4), pytest.approx(0.4)
    )
    assert entropy_collapse([0.9, 0.5, 0.6]) == EntropyCollapse(pytest.approx(0.3), pytest.approx(0.3))
    assert entropy_collapse([0.9]) is None
