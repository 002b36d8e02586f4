"""Position control: a planted drift is found as position, a planted decay as age, and both are separated."""

from __future__ import annotations

import numpy as np
import pytest

from moe_watch.routing.pressure.position_control import TwinPair, position_control

CHUNKS, SHIFT = 50, 25


def make_pairs(number, *, by_position=0.0, by_age=0.0, noise=0.015, seed=0):
    """Return pairs of runs with a given fall of P_mid per chunk, by position, age or both."""
    rng = np.random.default_rng(seed)
    age = np.arange(CHUNKS)

    def curve(first):
        return 0.5 - by_position * (first + age) - by_age * age + rng.normal(0, noise, CHUNKS)

    return [TwinPair(curve(0), curve(SHIFT), SHIFT) for _ in range(number)]


@pytest.mark.parametrize(
    ("planted", "position", "age"),
    [
        ({"by_position": 0.002}, -0.05, 0.0),
        ({"by_age": 0.002}, 0.0, -0.05),
        ({"by_position": 0.001, "by_age": 0.001}, -0.025, -0.025),
        ({}, 0.0, 0.0),
    ],
)
def test_what_was_planted_is_found(planted, position, age):
    found = position_control(make_pairs(8, **planted))
    assert found.position.mean == pytest.approx(position, abs=0.006)
    assert found.age.mean == pytest.approx(age, abs=0.006)
    assert found.position.is_other_than_zero == (position != 0)
    assert found.age.is_other_than_zero == (age != 0)
    assert found.separable == ((position != 0) != (age != 0))
    assert found.shift == SHIFT


def test_the_parts_make_up_the_trend():
    found = position_control(make_pairs(6, by_position=0.001, by_age=0.003))
    assert found.trend.mean == pytest.approx(found.position.mean + found.age.mean)


def test_by_hand():
    found = position_control([TwinPair([4.0, 3.0, 2.0], [3.0, 1.0, 0.0], 1)])
    assert found.trend.mean == -1.0  # 3 − 4 and 2 − 3
    assert found.position.mean == -1.5  # 3 − 4 and 1 − 3
    assert found.age.mean == 0.5  # 3 − 3 and 2 − 1
    assert found.position.interval is None


def test_twins_without_a_shared_stretch_say_nothing():
    curve = [0.5] * 10
    assert position_control([TwinPair(curve, curve, 10), TwinPair(curve, curve, 0), TwinPair(curve, curve, -2)]) is None
    assert position_control([]) is None
