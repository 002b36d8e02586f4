"""Permutation tests and agreement, with known answers."""

from __future__ import annotations

from itertools import permutations
from math import comb, inf

import numpy as np
import pytest

from moe_watch.routing.arrays import ABSENT
from moe_watch.routing.half_life.trend_detection import ar1_noise
from moe_watch.routing.router.agreement import Agreement, RoutingRows, mean_ranks, rank_correlation
from moe_watch.routing.stats.permutation import (
    DRAWS,
    FEWEST_CHUNKS,
    SIGNIFICANT,
    NoTest,
    Permutation,
    between_runs,
    half_lives_between_runs,
    holm,
    smallest_p,
    trend_of_difference,
)

NOISE = 0.015
"""Standard deviation from chunk to chunk, about pocket's."""


def p_of(outcome: Permutation | NoTest) -> float:
    assert isinstance(outcome, Permutation), outcome
    return outcome.p


# -- runs between groups


def test_groups_that_do_not_overlap_have_the_smallest_p_there_is() -> None:
    outcome = between_runs([1, 2, 3, 4], [5, 6, 7, 8])
    assert outcome == Permutation(difference=4.0, p=2 / 70, ways=70, exact=True)
    assert smallest_p(4, 4) == 2 / 70
    assert smallest_p(3, 5) == 1 / 56 == p_of(between_runs([1, 2, 3], [10, 11, 12, 13, 30]))


def test_every_way_to_share_runs_out_is_counted() -> None:
    a, b = [0.3, 0.9, 0.1, 0.45], [0.8, 0.75, 0.2, 0.6, 0.95]
    observed, together = np.mean(b) - np.mean(a), np.array(a + b)
    shuffled = np.array(list(permutations(range(9))))
    means = together[shuffled[:, 4:]].mean(1) - together[shuffled[:, :4]].mean(1)
    by_hand = np.mean(np.abs(means) >= abs(observed) - 1e-12)
    assert p_of(between_runs(a, b)) == pytest.approx(by_hand, rel=1e-12)


def test_the_same_in_both_groups_is_no_difference() -> None:
    assert between_runs([0.5] * 4, [0.5] * 5) == Permutation(0.0, 1.0, comb(9, 4), exact=True)


def test_too_few_runs_are_said_to_be_too_few() -> None:
    outcome = between_runs([1, 2, 3], [4, 5, 6])
    assert outcome == NoTest(
        "20 ways to divide runs into groups of 3 and 3, so p cannot fall below 0.1; 4 and 4 runs are enough"
    )


def test_of_too_many_ways_some_are_drawn_and_the_same_ones_again() -> None:
    a, b = np.random.default_rng(1).random((2, 10)).tolist()
    outcome = between_runs(a, b)
    assert isinstance(outcome, Permutation)
    assert (outcome.ways, outcome.exact) == (DRAWS, False)
    assert between_runs(a, b) == outcome
    assert p_of(between_runs(a, [each + 5 for each in b])) == 1 / (DRAWS + 1)


def test_groups_of_one_kind_seldom_seem_to_differ() -> None:
    """The test is exact: p ≤ 0.05 in at most 5 % of such cases, here 400 with a standard error of 1.1 %."""
    groups = np.random.default_rng(2).normal(size=(400, 2, 5))
    alarms = np.mean([p_of(between_runs(a, b)) <= SIGNIFICANT for a, b in groups])
    assert 0.01 < alarms <= 0.05 + 2 * 0.011


def test_half_lives_of_runs_that_have_none_count_as_longer_than_any() -> None:
    outcome = half_lives_between_runs([10, 12, 14, 11], [inf, inf, 40, inf], longest=50)
    assert p_of(outcome) == 2 / 70
    assert isinstance(outcome, Permutation)
    assert outcome.difference > 0


def test_half_lives_beyond_the_shortest_run_are_no_advantage() -> None:
    assert p_of(half_lives_between_runs([60, 70, 80, 90], [inf, inf, inf, 10], longest=100)) < 1
    assert p_of(half_lives_between_runs([60, 70, 80, 10], [inf, inf, inf, 10], longest=50)) == 1
    assert half_lives_between_runs([60] * 4, [inf] * 4, 50) == NoTest("no run has a half-life within 50 chunks")


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.7, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


# -- blocks of a difference


@pytest.mark.parametrize(("phi", "most"), [(0.0, 0.05), (0.3, 0.07), (0.5, 0.08)])
def test_runs_with_one_trend_seldom_seem_to_differ(phi: float, most: float) -> None:
    """Both fall equally, with independent noise: 400 pairs, a standard error of 1.1 to 1.4 %."""
    n, pairs = 50, 400
    common = 0.6 * 2 ** (-np.arange(n) / 20)
    noise = NOISE * ar1_noise(np.random.default_rng(3), n, 2 * pairs, phi).T
    runs = (common + noise).reshape(pairs, 2, n)
    alarms = np.mean([p_of(trend_of_difference(a, b)) <= SIGNIFICANT for a, b in runs])
    assert 0.01 < alarms <= most + 2 * 0.014


def test_another_trend_is_found() -> None:
    """A fall by a tenth of a start of 0.5 over 50 chunks, with noise as autocorrelated as pocket's: 100 pairs."""
    n = 50
    noise = NOISE * ar1_noise(np.random.default_rng(4), n, 200, 0.2).T.reshape(100, 2, n)
    falling = np.linspace(0, -0.05, n)
    outcomes = [trend_of_difference(a + 0.5, b + 0.5 + falling) for a, b in noise]
    assert np.mean([p_of(each) <= SIGNIFICANT for each in outcomes]) > 0.8
    slopes = [each.difference for each in outcomes if isinstance(each, Permutation)]
    assert np.mean(slopes) == pytest.approx(-0.05 / (n - 1), abs=1e-4)


def test_a_constant_apart_is_no_trend() -> None:
    run = np.random.default_rng(5).random(60)
    assert p_of(trend_of_difference(run, run + 0.25)) == 1.0


def test_too_few_chunks_in_common_are_said_to_be_too_few() -> None:
    short = [0.5] * (FEWEST_CHUNKS - 1)
    assert trend_of_difference(short, short) == NoTest("34 chunks in common, and the test needs at least 35")
    assert isinstance(trend_of_difference([0.5] * FEWEST_CHUNKS, [0.4] * FEWEST_CHUNKS), Permutation)


# -- rows


def rows(experts: list, weights: list | None = None, margin: list | None = None) -> RoutingRows:
    """Return rows of one layer, from lists of `k` experts, lists of their weights, and one margin each."""
    ids = np.array(experts, np.int64)[:, None, :]
    given = np.full(ids.shape, np.nan) if weights is None else np.array(weights, float)[:, None, :]
    margins = np.full(ids.shape[:2], np.nan) if margin is None else np.array(margin, float)[:, None]
    return RoutingRows(ids, given, margins)


def agree(a: RoutingRows, b: RoutingRows, *, experts: int = 8) -> Agreement:
    layers, k = a.experts.shape[1:]
    found = Agreement(layers, experts, np.full(layers, k), weight_unit=1e-4, margin_unit=1e-4)
    found.feed(a, b)
    return found


def test_sets_top_1_and_order_are_three_things() -> None:
    a = rows([[1, 2], [1, 2], [1, 2], [1, 2]])
    b = rows([[1, 2], [2, 1], [1, 3], [4, 5]])
    found = agree(a, b)
    assert [int(each[0]) for each in (found.rows, found.sets, found.top_1, found.order, found.kept)] == [4, 2, 2, 1, 5]
    assert found.rank_of_top_1.tolist() == [[2, 1, 1]]
    assert found.weighed.tolist() == [0]
    assert found.largest is None


def test_rows_that_one_run_did_not_compute_are_left_out() -> None:
    nothing = [ABSENT, ABSENT]
    found = agree(rows([[1, 2], nothing, [1, 2], nothing]), rows([nothing, [1, 2], [1, 2], nothing]))
    assert [
        int(each[0]) for each in (found.rows, found.unmatched.only_a, found.unmatched.only_b, found.sets, found.kept)
    ] == [
        1,
        1,
        1,
        1,
        2,
    ]
    assert found.usage.a.sum() == found.usage.b.sum() == 2


def test_no_row_in_common_is_no_number() -> None:
    found = agree(rows([[1, 2]]), rows([[ABSENT, ABSENT]]))
    assert found.rows.tolist() == [0]
    assert np.isnan(found.usage_distance).all()
    assert np.isnan(found.usage_correlation).all()
    assert np.isnan(found.difference).all()


def test_the_largest_difference_of_weights_is_that_of_the_same_expert() -> None:
    a = rows([[1, 2], [1, 2], [1, 2]], [[0.6, 0.4], [0.55, 0.45], [0.9, 0.1]])
    b = rows([[1, 2], [2, 1], [1, 3]], [[0.6, 0.4], [0.52, 0.48], [0.5, 0.5]])
    found = agree(a, b)
    assert found.largest is not None
    assert found.largest.weight == pytest.approx(0.07)
    assert (found.largest.i, found.largest.layer) == (1, 0)
    found.feed(rows([[1, 2]], [[0.8, 0.2]]), rows([[1, 2]], [[0.6, 0.4]]))
    assert (found.largest.weight, found.largest.i) == (pytest.approx(0.2), 3)


@pytest.mark.parametrize(
    ("weights_a", "weights_b", "tied"),
    [
        ([0.6, 0.4], [0.6, 0.4], 1),
        ([0.6, 0.4], [0.6001, 0.3999], 1),
        ([0.6, 0.4], [0.6003, 0.3997], 0),
    ],
)
def test_a_set_is_tied_where_all_weights_are_the_same_within_a_unit(
    weights_a: list, weights_b: list, tied: int
) -> None:
    found = agree(rows([[1, 2]], [weights_a]), rows([[1, 3]], [weights_b]))
    assert (found.sets.tolist(), found.ties.sets.tolist(), found.weighed.tolist()) == ([0], [tied], [1])


def test_weights_that_are_all_the_same_differ_by_0_and_not_by_nothing() -> None:
    same = rows([[1, 2]], [[0.6, 0.4]])
    found = agree(same, same)
    assert found.difference.tolist() == [0.0]
    assert found.largest is not None


def test_two_other_experts_are_no_tie() -> None:
    assert agree(rows([[1, 2]], [[0.5, 0.5]]), rows([[3, 4]], [[0.5, 0.5]])).ties.sets.tolist() == [0]


def test_an_order_is_tied_where_the_experts_that_changed_places_weigh_the_same() -> None:
    tied = agree(rows([[1, 2]], [[0.5, 0.5]]), rows([[2, 1]], [[0.50005, 0.49995]]))
    assert (tied.sets.tolist(), tied.order.tolist(), tied.ties.order.tolist()) == ([1], [0], [1])
    assert agree(rows([[1, 2]], [[0.6, 0.4]]), rows([[2, 1]], [[0.6, 0.4]])).ties.order.tolist() == [0]


def test_of_one_expert_the_margin_says_whether_it_is_a_tie() -> None:
    """Its weight after renormalisation is always 1."""
    a, b = rows([[1], [1]], [[1.0], [1.0]], [1e-4, 0.3]), rows([[2], [2]], [[1.0], [1.0]], [0.0, 1e-4])
    found = agree(a, b)
    assert (found.sets.tolist(), found.ties.sets.tolist(), found.ties.top_1.tolist()) == ([0], [1], [1])


def test_usage_over_the_same_rows() -> None:
    same = agree(rows([[0, 1], [2, 3]]), rows([[2, 3], [1, 0]]), experts=4)
    assert same.usage_distance.tolist() == [0.0]
    apart = agree(rows([[0, 1], [0, 1]]), rows([[2, 3], [3, 2]]), experts=4)
    assert apart.usage_distance.tolist() == pytest.approx([1.0])
    assert apart.usage_correlation.tolist() == pytest.approx([-1.0])


def test_rank_correlation_with_ties() -> None:
    a, b = np.array([3, 1, 1, 7, 0]), np.array([2, 2, 1, 9, 0])
    assert mean_ranks(a).tolist() == [4, 2.5, 2.5, 5, 1]
    by_hand = np.corrcoef([4, 2.5, 2.5, 5, 1], [3.5, 3.5, 2, 5, 1])[0, 1]
    assert rank_correlation(a, b) == pytest.approx(by_hand)
    assert np.isnan(rank_correlation(np.array([2, 2]), np.array([1, 3])))
