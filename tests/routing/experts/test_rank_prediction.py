"""Spearman's ρ of rankings with the damage: against scipy, planted, within layers, and its intervals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr

from moe_watch.routing.experts.rank_prediction import differences, predict, split_half
from moe_watch.routing.router.agreement import mean_ranks
from moe_watch.routing.stats.token_blocks import Blocks
from tests.routing.experts.planted_damage import rho_coverage

LAYER = np.repeat([1, 3, 4], 8)


def damage_of(means, noise=0.0, blocks=60, seed=0):
    means = np.asarray(means, float)
    error = noise * np.random.default_rng(seed).standard_normal((len(means), blocks))
    return Blocks(np.full(blocks, 20.0), 20 * (means[:, None] + error))


def test_ranks_equal_those_of_scipy():
    values = np.random.default_rng(1).integers(0, 5, (4, 3, 30)).astype(float)
    assert (mean_ranks(values) == rankdata(values, axis=-1)).all()
    assert mean_ranks(np.array([[2, 2, 2]])).tolist() == [[2.0, 2.0, 2.0]]
    assert mean_ranks(np.array([np.inf, 1.0, np.inf])).tolist() == [2.5, 1.0, 2.5]
    assert mean_ranks(np.empty((2, 0))).shape == (2, 0)


def test_correlations_equal_those_of_scipy_pooled_and_within_layers():
    random = np.random.default_rng(2)
    ranking, means = random.integers(0, 9, 24).astype(float), random.standard_normal(24)
    found = predict({"count": ranking}, damage_of(means, 0.3), LAYER)["count"]
    measured = damage_of(means, 0.3).means
    assert found.pooled == pytest.approx(spearmanr(ranking, measured)[0])
    layers = [spearmanr(ranking[at : at + 8], measured[at : at + 8])[0] for at in (0, 8, 16)]
    assert found.within == pytest.approx(np.mean(layers))


def test_planted_rankings_are_found():
    means = np.random.default_rng(3).exponential(size=24)
    rankings = {"right": means**3, "reversed": -means, "shuffled": np.random.default_rng(4).permutation(means)}
    found = predict(rankings, damage_of(means, 0.01), LAYER)
    assert found["right"].within == pytest.approx(1.0)
    assert found["reversed"].within == pytest.approx(-1.0)
    assert abs(found["shuffled"].within) < 0.5
    low, high = found["right"].within_interval
    assert 0.9 < low <= high <= 1.0


def test_a_ranking_that_only_separates_layers_is_pooled_high_and_within_low():
    """Layer 1 has all the damage and all the count, and within layers the two are unrelated."""
    random = np.random.default_rng(5)
    means = np.repeat([5.0, 1.0, 0.2], 8) * (1 + 0.1 * random.random(24))
    count = np.repeat([900.0, 100.0, 10.0], 8) * (1 + 0.1 * random.random(24))
    found = predict({"count": count}, damage_of(means, 0.001), LAYER)["count"]
    assert found.pooled > 0.85
    assert abs(found.within) < 0.4


def test_correlations_without_a_meaning_are_absent():
    means = np.arange(24.0)
    constant = predict({"count": np.ones(24)}, damage_of(means), LAYER)["count"]
    assert np.isnan(constant.pooled)
    assert np.isnan(constant.within)
    assert constant.within_interval is None
    pairs = predict({"count": means}, damage_of(means), np.repeat(np.arange(12), 2))["count"]
    assert np.isnan(pairs.within)
    assert pairs.pooled == 1.0
    assert predict({}, damage_of(means), LAYER) == {}


def test_a_layer_of_equal_values_is_left_out_of_the_mean():
    means = np.concatenate([np.arange(8.0), np.zeros(8), np.arange(8.0)])
    assert predict({"count": np.arange(24.0)}, damage_of(means), LAYER)["count"].within == pytest.approx(1.0)


def test_differences_are_paired_and_clear_only_where_they_are():
    means = np.random.default_rng(6).exponential(size=24)
    random = np.random.default_rng(7)
    rankings = {"noise": random.random(24), "good": means, "same": means * 2}
    pairs = {(each.better, each.worse): each for each in differences(predict(rankings, damage_of(means, 0.5), LAYER))}
    assert pairs["good", "noise"].interval[0] > 0
    assert pairs["good", "same"].difference == 0
    assert pairs["good", "same"].interval == (0.0, 0.0)


def test_split_halves():
    first = np.arange(24.0)
    assert split_half(first, first * 2, LAYER) == pytest.approx((1.0, 1.0))
    assert split_half(first, -first, LAYER) == pytest.approx((-1.0, -1.0))


def test_intervals_of_planted_correlations_cover():
    pooled, within, stability = rho_coverage(1.0, 0.5, 40)
    assert 0.88 <= pooled <= 1.0
    assert 0.88 <= within <= 1.0
    assert stability > 0.5
