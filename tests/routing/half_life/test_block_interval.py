from __future__ import annotations

import numpy as np
import pytest

from moe_watch.routing.half_life.block_interval import REFITS, block_length, block_refits
from moe_watch.routing.half_life.draws import Fitted, percentiles
from moe_watch.routing.half_life.shapes import time_axis
from tests.routing.planted import linear, plant

TIMES = time_axis(tuple(float(t) for t in range(50)))
Y = np.array(next(plant(linear(0.6, -0.01), 0.0, range(1))).mid)


def fitted(shape, weight):
    curve = TIMES.fit(shape, Y[:, None], rounds=8)
    return Fitted(curve, Y - curve.values(TIMES.t)[:, 0], weight)


@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.7, 0.3), (0.0011, 0.9989)])
def test_draws_are_shared_out_by_weight(weights):
    both = [fitted(shape, weight) for shape, weight in zip(("linear", "exponential"), weights, strict=True)]
    found = block_refits(TIMES, both, np.random.default_rng(0))
    drawn = {each.shape: each.parameters.shape[1] for each in found.curves}
    assert sum(drawn.values()) == REFITS
    assert drawn.get("linear", 0) == round(REFITS * weights[0])


def test_slopes_of_refits_scatter_much_as_theory_says():
    """Standard error of a slope under white noise: s / √Σ(t − t̄)²; blocks end where the series does."""
    line = fitted("linear", 1.0)
    (refits,) = block_refits(TIMES, [line], np.random.default_rng(0)).curves
    expected = np.sqrt(line.residuals @ line.residuals / 48 / ((TIMES.t - 24.5) ** 2).sum())
    assert refits.parameters[1].std() == pytest.approx(expected, rel=0.4)


def test_the_interval_is_around_the_fit():
    line = fitted("linear", 1.0)
    low, high = block_refits(TIMES, [line], np.random.default_rng(0)).half_time()
    assert low < line.curve.half_times()[0] < high


def test_block_length_grows_with_the_series():
    assert [block_length(n) for n in (5, 50, 500)] == [2, 5, 11]


def test_percentiles_leave_out_as_much_on_either_side_and_may_be_infinite():
    low, high = percentiles(np.array([*range(388), *[np.inf] * 12], float))
    assert (low, high) == (10, np.inf)
    low, high = percentiles(np.arange(400.0))
    assert (low, high) == (10, 389)
