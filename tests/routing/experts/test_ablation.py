"""Damage per expert: block sums, intervals and p against a second implementation, and coverage by simulation."""

from __future__ import annotations

import numpy as np
import pytest

from moe_watch.routing.experts.ablation import draws_for, halves, least_used, similar_expert, spread_over_ranks
from moe_watch.routing.stats.permutation import holm
from moe_watch.routing.stats.token_blocks import (
    DRAWS,
    FEWEST_BLOCKS,
    Blocks,
    block_means,
    block_sizes,
    block_sums,
    resamples,
)
from tests.routing.experts.planted_damage import PHI, affected, blocks_of, coverage, normal, skewed


def of_blocks(*sums, size=20.0):
    table = np.array(sums, float)
    return Blocks(np.full(table.shape[1], size), table)


def test_blocks_are_20_successive_tokens_and_never_span_windows():
    assert block_sizes(45) == [20, 20, 5]
    assert block_sizes(20) == [20]
    assert block_sums(np.arange(45.0)).tolist() == [190.0, 590.0, 210.0]
    found = blocks_of(np.ones((2, 511 + 30)))
    assert found.tokens.tolist() == [*([20.0] * 25), 11.0, 20.0, 10.0]
    assert (found.sums == found.tokens).all()


def test_the_mean_is_over_tokens_and_not_over_blocks():
    blocks = Blocks(np.array([20.0] * 20 + [5.0]), np.array([[20.0] * 20 + [50.0]]))
    assert block_means(blocks).mean[0] == pytest.approx(450 / 405)


def test_intervals_and_p_equal_those_of_a_loop_over_the_resamples():
    random = np.random.default_rng(3)
    tokens = np.array([20.0] * 24 + [11.0] * 4)
    sums = random.standard_normal((3, 28)) * 4 + np.array([[0.0], [2.0], [-1.0]])
    found = block_means(Blocks(tokens, sums))
    drawn = np.concatenate(list(resamples(28, DRAWS)))
    assert drawn.shape == (DRAWS, 28)
    assert (drawn.sum(1) == 28).all()
    for series in range(3):
        mean, error = mean_and_error(sums[series], tokens)
        distances = []
        for times in drawn[:2000].astype(int):
            again, of_again = mean_and_error(np.repeat(sums[series], times), np.repeat(tokens, times))
            distances.append(abs(again - mean) / of_again)
        assert found.mean[series] == pytest.approx(mean)
        quantile = found.half_width[series] / error
        assert np.mean(np.array(distances) <= quantile) == pytest.approx(0.95, abs=0.01)
        beyond = np.mean(np.array(distances) >= abs(mean) / error)
        assert found.p[series] == pytest.approx(beyond, abs=0.02)


def mean_and_error(sums, tokens):
    """Return a ratio of sums and its linearised standard error."""
    mean = sums.sum() / tokens.sum()
    n = len(sums)
    return mean, np.sqrt(n / (n - 1) * ((sums - mean * tokens) ** 2).sum()) / tokens.sum()


def test_the_interval_contains_0_exactly_if_p_exceeds_5_percent():
    random = np.random.default_rng(5)
    blocks = of_blocks(*(random.standard_normal((200, 60)) * 5 + random.standard_normal((200, 1))))
    found = block_means(blocks)
    contains = np.abs(found.mean) <= found.half_width
    assert (contains == (found.p > 0.05)).all()
    assert 20 < contains.sum() < 180


def test_an_expert_without_an_effect_has_a_damage_of_exactly_0():
    found = block_means(of_blocks(np.zeros(50), np.arange(50.0)))
    assert (found.mean[0], found.interval(0), found.p[0]) == (0.0, (0.0, 0.0), 1.0)
    assert found.p[1] < 0.001


def test_there_is_no_interval_if_only_one_block_is_affected():
    one, many = np.zeros(100), np.zeros(100)
    one[7], many[::5] = 3.0, 3.0
    found = block_means(of_blocks(one, many))
    assert found.interval(0) is None
    assert found.p[0] > 0.05
    low, high = found.interval(1)
    assert 0 < low < 0.03 < high


def test_p_is_never_0_and_survives_the_correction_for_every_expert():
    assert block_means(of_blocks(np.full(40, 20.0) + np.arange(40) / 100)).p[0] == 1 / (1 + DRAWS)
    for experts in (1, 48, 6144):
        smallest = 1 / (1 + draws_for(experts))
        assert 0 < max(holm([smallest] * experts)) <= 0.025 * (1 + 1e-9)


def test_too_few_blocks_are_refused():
    with pytest.raises(ValueError, match="bootstrap of 19 blocks"):
        block_means(of_blocks(np.ones(FEWEST_BLOCKS - 1)))


@pytest.mark.parametrize("series", [normal, skewed, affected(0.05)], ids=["normal", "skewed", "rare"])
def test_intervals_cover_and_p_does_not_cry_wolf(series):
    covered, significant = coverage(series, 1022, 300)
    assert 0.915 <= covered <= 0.985
    assert 0.015 <= significant <= 0.085


def test_blocks_of_one_token_would_be_too_narrow():
    """Negative control: the coverage above comes from the blocks."""
    values = normal(np.random.default_rng(0), 100, 1022)
    found = block_means(Blocks(np.ones(1022), values))
    assert PHI == 0.5
    assert (np.abs(found.mean) <= found.half_width).mean() < 0.8


def test_many_experts_need_no_dense_table():
    import tracemalloc

    blocks = of_blocks(*np.random.default_rng(0).standard_normal((600, 205)))
    tracemalloc.start()
    block_means(blocks)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 250e6  # experts × draws would be 48 MB an array, and 6,144 experts ten times that


def test_halves_are_the_first_and_the_second():
    first, second = halves(of_blocks([20.0] * 3 + [40.0] * 3))
    assert (first.tolist(), second.tolist()) == ([1.0], [2.0])


def test_experts_are_chosen_evenly_over_the_ranks():
    tokens = np.array([5, 80, 20, 60, 40, 70, 10, 30])
    assert spread_over_ranks(tokens, 8) == list(range(8))
    chosen = spread_over_ranks(tokens, 4)
    ranks = sorted(int((tokens > tokens[each]).sum()) for each in chosen)
    assert [rank // 2 for rank in ranks] == [0, 1, 2, 3]
    assert chosen == spread_over_ranks(tokens, 4)


def test_controls_are_the_least_used_and_a_similar_one_of_the_layer():
    tokens, layer = np.array([9, 50, 52, 49, 500, 48, 1]), np.array([0, 0, 0, 0, 0, 0, 1])
    assert least_used(tokens) == 6
    assert similar_expert(1, tokens, layer) in {2, 3, 5}
    assert similar_expert(6, tokens, layer) is None
