"""Stability of rankings: planted rankings are stable, and pure noise agrees by chance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr

from moe_watch.routing.experts.rankings import RANKINGS
from moe_watch.routing.experts.stability import (
    FEWEST_BLOCKS,
    RankStability,
    SumsByBlock,
    kept_overlap,
    rank_stability,
    ranking_correlation,
)
from moe_watch.routing.experts.sums import ExpertSums, total
from tests.routing.experts.planted_usage import planted_blocks

EXPERTS = 16
KEEPS = list(range(1, EXPERTS + 1))
STEEP = np.array([2.0 ** -np.arange(6), np.roll(2.0 ** -np.arange(6), 2)])
STEEP /= STEEP.sum(1, keepdims=True)
EQUAL = np.full((60, EXPERTS), 1 / EXPERTS)


def stability(blocks: list[ExpertSums], by: str = "count", keeps: list[int] = KEEPS) -> RankStability:
    found = rank_stability(blocks, by, keeps)  # type: ignore[arg-type]
    assert found is not None
    return found


@pytest.mark.parametrize("by", ["count", "weight_mass", "saliency_mass"])
def test_a_steep_ranking_is_stable(by: str) -> None:
    found = stability(planted_blocks(STEEP), by, [1, 2, 3, 4, 5, 6])
    np.testing.assert_array_equal(found.same_set, 1.0)
    np.testing.assert_array_equal(found.overlap, 1.0)
    np.testing.assert_array_equal(found.half_overlap, 1.0)
    np.testing.assert_allclose(found.half_correlation, 1.0)


def test_halves_of_noise_agree_by_chance() -> None:
    found = stability(planted_blocks(EQUAL))
    chance = np.array(KEEPS) / EXPERTS
    np.testing.assert_allclose(found.half_overlap.mean(0), chance, atol=0.03)  # over 60 layers
    assert abs(found.half_correlation.mean()) < 0.04
    assert (found.overlap.mean(0)[:8] > chance[:8] + 0.2).all()  # a resample is drawn from the whole
    assert (found.same_set[:, 5] < 0.2).all()


def test_saliency_ignores_how_often_an_expert_is_selected() -> None:
    rates = STEEP[:1]
    blocks = planted_blocks(rates)
    rising = np.arange(1.0, 7.0)
    blocks = [replace(each, norms=each.counts * rising) for each in blocks]
    found = stability(blocks, "saliency", [1, 2, 3])
    np.testing.assert_array_equal(found.overlap, 1.0)
    whole = total(blocks).saliency
    assert whole is not None
    np.testing.assert_allclose(whole, rising[None])


def test_an_expert_that_a_half_never_selects_ranks_last_there() -> None:
    counts = np.array([[5, 5, 0]], np.int64)
    blocks = [ExpertSums(np.array([10]), counts, None, counts * np.array([1.0, 2.0, 9.0])) for _ in range(10)]
    rare = np.array([[5, 4, 1]], np.int64)
    blocks[0] = ExpertSums(np.array([10]), rare, None, rare * np.array([1.0, 2.0, 9.0]))
    found = stability(blocks, "saliency", [1])
    assert found.half_overlap[0, 0] == 0.0  # the rare expert is the best of one half, and unknown to the other
    assert 0.5 < found.overlap[0, 0] < 0.8  # 1 − (1 − 1/10)¹⁰ of the resamples have its block


def test_overlap_of_known_rankings() -> None:
    a = np.array([[4.0, 3.0, 2.0, 1.0]])
    b = np.array([[3.0, 4.0, np.nan, 2.0]])  # 1, 0, 3, 2
    np.testing.assert_allclose(kept_overlap(a, b, [1, 2, 3, 4]), [[0, 1, 2 / 3, 1]])
    np.testing.assert_allclose(kept_overlap(b, a, [3]), [[2 / 3]])


def test_correlation_is_spearmans() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.integers(0, 6, (4, 20)).astype(float), rng.normal(size=(4, 20))
    b[:, 3] = np.nan
    last = np.where(np.isnan(b), -np.inf, b)
    expected = [spearmanr(x, y).statistic for x, y in zip(a, last, strict=True)]
    np.testing.assert_allclose(ranking_correlation(a, b), expected)


def test_a_resample_has_the_size_of_the_whole() -> None:
    """The share of resamples that keep the same expert follows from the blocks: here, one block decides."""
    blocks = [ExpertSums(np.array([1]), np.array([[1, 0]])) for _ in range(5)]
    blocks += [ExpertSums(np.array([1]), np.array([[0, 1]])) for _ in range(4)]
    found = stability(blocks, keeps=[1])
    # Expert 0 stays first if at least 5 of 9 drawn blocks select it: P(Binomial(9, 5/9) ≥ 5) = 0.63
    assert found.same_set[0, 0] == pytest.approx(0.63, abs=0.1)
    assert found.same_set[0, 0] == found.overlap[0, 0]


def test_the_same_blocks_have_the_same_stability() -> None:
    blocks = planted_blocks(EQUAL[:2])
    np.testing.assert_array_equal(stability(blocks).overlap, stability(blocks).overlap)


def test_absent_without_the_quantity_or_with_few_blocks() -> None:
    blocks = planted_blocks(STEEP, blocks=FEWEST_BLOCKS)
    assert rank_stability(blocks[1:], "count", [1]) is None
    assert rank_stability([], "count", [1]) is None
    lacking = [*blocks, replace(blocks[0], norms=None)]
    assert [by for by in RANKINGS if rank_stability(lacking, by, [1]) is None] == ["saliency", "saliency_mass"]


@pytest.mark.parametrize("number", [1, 7, 8, 9, 16, 33, 100])
def test_joined_blocks_lose_no_token(number: int) -> None:
    blocks = planted_blocks(STEEP, blocks=number)
    kept = SumsByBlock(most=8)
    for block in blocks:
        kept.add(block)
    found = kept.blocks()
    assert len(found) <= 8
    assert total(found).counts.tolist() == total(blocks).counts.tolist()
    assert {int(each.rows[0]) for each in found[:-1]} <= {200 * kept.joined}
    if number < 8:
        assert len(found) == number
