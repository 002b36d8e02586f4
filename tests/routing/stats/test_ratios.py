from __future__ import annotations

import numpy as np
import pytest

from moe_watch.routing.stats.ratios import FEWEST_ROUNDS, interleave, ratio, table


def test_every_round_measures_everything_once_in_an_order_of_its_own():
    taken: list[str] = []

    def measure(name):
        taken.append(name)
        return float(len(taken))

    rates = interleave({name: lambda name=name: measure(name) for name in "abc"}, 20)
    rounds = ["".join(taken[i : i + 3]) for i in range(0, 60, 3)]
    assert all(sorted(each) == ["a", "b", "c"] for each in rounds)
    assert len(set(rounds)) > 2
    assert rates == {name: [1.0 + i for i, each in enumerate(taken) if each == name] for name in "abc"}


def test_warm_up_is_measured_in_the_given_order_and_left_out():
    taken: list[str] = []
    rates = interleave({name: lambda name=name: len(taken.append(name) or taken) for name in "dcba"}, 2, warm_up=1)
    assert taken[:4] == ["d", "c", "b", "a"]
    assert sorted(rate for each in rates.values() for rate in each) == list(range(5, 13))


def test_a_ratio_is_paired_by_round():
    found = ratio([1.0, 20.0, 300.0], [2.0, 40.0, 600.0])
    assert (found.value, found.interval) == (0.5, None)


@pytest.mark.parametrize(
    ("rounds", "low", "high"), [(6, 1, 6), (8, 1, 8), (9, 2, 8), (10, 2, 9), (12, 3, 10), (20, 6, 15), (25, 8, 18)]
)
def test_the_interval_is_that_of_the_sign_test(rounds, low, high):
    """The ranks are those in tables of distribution-free 95 % intervals of a median."""
    shuffled = [float(1 + 7 * i % rounds) if rounds % 7 else float(1 + i) for i in range(rounds)]
    assert ratio(shuffled, [1.0] * rounds).interval == (low, high)


@pytest.mark.parametrize("rounds", [1, 2, 3, FEWEST_ROUNDS - 1])
def test_few_rounds_have_no_interval(rounds):
    found = ratio([1.5] * rounds, [1.0] * rounds)
    assert (found.value, found.interval) == (1.5, None)
    assert str(found) == "1.500 (no interval: under 6 rounds)"


@pytest.mark.parametrize("rounds", [6, 7, 10, 15])
def test_the_interval_holds_the_median_of_any_noise(rounds):
    """At least 95 % of 1,000 trials, minus three standard errors."""
    draws = np.random.default_rng(3)
    noise = np.exp(0.3 * draws.standard_t(2, (1000, rounds)))
    found = [ratio(row.tolist(), [1.0] * rounds).interval for row in noise]
    assert sum(low <= 1.0 <= high for low, high in found) >= 930


def test_table():
    lines = table({"bare": [2000.0] * 6, "slow": [10.0] * 6}, corner="decode").splitlines()
    assert lines == [
        "| decode | tokens/s, median | ratio to bare, 95 % interval |",
        "|---|---|---|",
        "| bare | 2,000 | 1 |",
        "| slow | 10 | 0.005 [0.005, 0.005] |",
    ]


@pytest.mark.parametrize(("rate", "shown"), [(7.256, "7.26"), (99.96, "100"), (100.4, "100"), (1234.5, "1,234")])
def test_slow_rates_keep_their_digits(rate, shown):
    assert f"| a | {shown} | 1 |" in table({"a": [rate]})
