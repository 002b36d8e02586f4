from __future__ import annotations

import numpy as np
import pytest

from routing.trend_bootstrap import DRAWS, Fitted, block_length, block_refits, noise_refits, percentiles
from routing.trend_noise import KINDS, NoiseAround
from routing.trend_shapes import axis
from tests.routing.planted import linear, plant

TIMES = axis(tuple(float(t) for t in range(50)))
Y = np.array(next(plant(linear(0.6, -0.01), 0.0, range(1))).mid)


def fitted(shape, weight, phi=0.0):
    """A fit with AR(1) noise of this φ as strong as white noise would be."""
    curve = TIMES.fit(shape, Y[:, None], rounds=8)
    left = Y - curve.values(TIMES.t)[:, 0]
    known = (KINDS[0] == phi) & ((KINDS[1] == 1) | (phi == 0))
    spread = np.full(len(known), np.sqrt(left @ left / (50 - len(curve.parameters))))
    return Fitted(curve, left, weight, NoiseAround(np.where(known, 0.0, -np.inf), spread))


def test_slopes_of_refits_scatter_as_theory_says():
    """Standard error of a slope under white noise: s / √Σ(t − t̄)²."""
    line = fitted("linear", 1.0)
    (refits,) = noise_refits(TIMES, [line], np.random.default_rng(0)).curves
    expected = np.sqrt(line.residuals @ line.residuals / 48 / ((TIMES.t - 24.5) ** 2).sum())
    assert refits.parameters[1].std() == pytest.approx(expected, rel=0.15)


def test_persistent_noise_makes_wider_intervals():
    widths = []
    for phi in (0.0, 0.4, 0.8):
        low, high = noise_refits(TIMES, [fitted("linear", 1.0, phi)], np.random.default_rng(0)).half_time()
        widths.append(high - low)
    assert widths[0] < widths[1] < widths[2]


@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.7, 0.3), (0.0011, 0.9989)])
def test_draws_are_shared_out_by_weight(weights):
    both = [fitted(shape, weight) for shape, weight in zip(("linear", "exponential"), weights, strict=True)]
    found = noise_refits(TIMES, both, np.random.default_rng(0))
    drawn = {each.shape: each.parameters.shape[1] for each in found.curves}
    assert sum(drawn.values()) == DRAWS
    assert drawn.get("linear", 0) == round(DRAWS * weights[0])


def test_blocks_give_much_the_same_interval_for_white_noise():
    line = fitted("linear", 1.0)
    low, high = block_refits(TIMES, [line], np.random.default_rng(0)).half_time()
    assert low < line.curve.half_times()[0] < high
    ends = noise_refits(TIMES, [line], np.random.default_rng(0)).half_time()
    assert high - low == pytest.approx(ends[1] - ends[0], rel=0.4)


def test_block_length_grows_with_the_series():
    assert [block_length(n) for n in (5, 50, 500)] == [2, 5, 11]


def test_percentiles_leave_out_as_much_on_either_side_and_may_be_infinite():
    low, high = percentiles(np.array([*range(388), *[np.inf] * 12], float))
    assert (low, high) == (10, np.inf)
    low, high = percentiles(np.arange(400.0))
    assert (low, high) == (10, 389)
