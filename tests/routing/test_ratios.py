from __future__ import annotations

import pytest

from routing.ratios import interleave, ratio, table


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
    assert (found.low, found.value, found.high) == (0.5, 0.5, 0.5)


def test_the_interval_covers_the_median_and_lies_within_the_rounds():
    """Three or more of five draws are one certain round, as the median at that end needs, in 5.8 % of all draws."""
    found = ratio([0.8, 0.9, 1.0, 1.1, 1.3], [1.0] * 5)
    assert (found.low, found.value, found.high) == (0.8, 1.0, 1.3)
    assert found == ratio([0.8, 0.9, 1.0, 1.1, 1.3], [1.0] * 5)


def test_table():
    lines = table({"bare": [2000.0, 2000.0], "slow": [10.0, 10.0]}, corner="decode").splitlines()
    assert lines == [
        "| decode | tokens/s, median | ratio to bare, 95 % interval |",
        "|---|---|---|",
        "| bare | 2,000 | 1 |",
        "| slow | 10 | 0.005 [0.005, 0.005] |",
    ]


@pytest.mark.parametrize(("rate", "shown"), [(7.256, "7.26"), (99.96, "100"), (100.4, "100"), (1234.5, "1,234")])
def test_slow_rates_keep_their_digits(rate, shown):
    assert f"| a | {shown} | 1 |" in table({"a": [rate]})
