"""External energy with planted effects: a planted effect is found, and no effect without one."""

from __future__ import annotations

import numpy as np
import pytest

from moe_watch.routing.events import Fork, Pressures
from moe_watch.routing.pressure.external_energy import ARMS, Boundary, boundaries_of, external_energy

NOISE = 0.03
"""Standard deviation of P_mid between continuations, as in pocket."""


def make_boundaries(number, *, text=0.0, neutral=0.0, replicates=8, seed=0):
    """Return boundaries with a random P_mid each, to which the arms add the planted effects."""
    rng = np.random.default_rng(seed)
    planted = {"none": 0.0, "neutral": neutral, "text": text}
    found = []
    for at in range(number):
        base = rng.normal(0.5, 0.05)
        arms = {arm: tuple(base + planted[arm] + rng.normal(0, NOISE, replicates)) for arm in ARMS}
        found.append(Boundary(1, 20 * at, **arms))
    return found


def test_a_planted_effect_is_recovered():
    found = external_energy(make_boundaries(60, text=0.05, neutral=0.02))
    assert found.text_minus_neutral.mean == pytest.approx(0.03, abs=0.006)
    assert found.text_minus_none.mean == pytest.approx(0.05, abs=0.006)
    assert found.neutral_minus_none.mean == pytest.approx(0.02, abs=0.006)
    for estimate in (found.text_minus_neutral, found.text_minus_none, found.neutral_minus_none):
        assert estimate.is_other_than_zero
    assert (found.boundaries, found.replicates) == (60, (8, 8))
    assert found.arms["text"] - found.arms["none"] == pytest.approx(found.text_minus_none.mean)


def test_the_interval_holds_the_planted_effect():
    planted = 0.03
    intervals = [external_energy(make_boundaries(15, text=planted, seed=n)).text_minus_neutral for n in range(200)]
    held = [each.interval[0] <= planted <= each.interval[1] for each in intervals]
    assert np.mean(held) >= 0.9


def test_no_effect_is_seldom_found():
    found = [external_energy(make_boundaries(15, seed=1000 + n)).text_minus_neutral for n in range(200)]
    assert np.mean([each.is_other_than_zero for each in found]) <= 0.1


def test_what_boundaries_share_does_not_widen_the_interval():
    found = external_energy(make_boundaries(60))
    low, high = found.text_minus_neutral.interval
    assert high - low < 4 * 2 * NOISE * (2 / 8 / 60) ** 0.5
    assert abs(low) < 0.02


def test_no_boundary():
    assert external_energy([]) is None


def make_fork(i, arm, replicate, mid):
    return Fork(
        i=i,
        t=0.0,
        arm=arm,
        replicate=replicate,
        seed=replicate,
        text="",
        injected=[],
        generated=[1],
        pressures=None
        if mid is None
        else Pressures(fast=0.0, mid=mid, slow=0.0, net=0.0, w_fast=0.2, w_mid=0.5, w_slow=0.1),
    )


def test_forks_are_put_together_by_boundary():
    forks = [make_fork(i, arm, r, 0.1 * i + 0.01 * r) for i in (40, 20) for arm in ARMS for r in range(2)]
    first, second = boundaries_of(forks, run=3)
    assert (first.run, first.i, second.i) == (3, 20, 40)
    assert first.none == first.neutral == first.text == (2.0, 2.01)
    assert first.difference("text", "none") == 0
    assert first.replicates == 2


def test_a_boundary_without_an_arm_is_left_out():
    whole = [make_fork(20, arm, 0, 0.5) for arm in ARMS]
    cut = [make_fork(40, arm, 0, 0.5) for arm in ("none", "neutral")]
    unmeasured = [make_fork(60, arm, 0, None if arm == "text" else 0.5) for arm in ARMS]
    assert [each.i for each in boundaries_of([*whole, *cut, *unmeasured], run=1)] == [20]
