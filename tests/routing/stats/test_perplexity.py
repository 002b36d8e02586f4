"""Perplexity against its definition, and the paired ratio of two models."""

from __future__ import annotations

from math import exp, log, sqrt

import numpy as np
import pytest

from moe_watch.routing.stats.perplexity import first_scored, paired, perplexity


def test_a_uniform_prediction_has_the_size_of_the_vocabulary():
    found = perplexity([np.full(255, log(50_000)), np.full(255, log(50_000))])
    assert found.perplexity == pytest.approx(50_000)
    assert found.standard_error == 0
    assert found.interval == pytest.approx((50_000, 50_000))
    assert found.tokens == 510


def test_perplexity_and_its_error_are_llama_cpps():
    values = np.random.default_rng(0).gamma(2.0, 0.7, size=(5, 255))
    found = perplexity(list(values))
    total, squares, count = 0.0, 0.0, 0
    for value in values.ravel():  # as the tool sums them
        total, squares, count = total + value, squares + value * value, count + 1
    mean = total / count
    error = sqrt((squares / count - mean * mean) / (count - 1))
    assert found.perplexity == pytest.approx(exp(mean), rel=1e-12)
    assert found.standard_error == pytest.approx(exp(mean) * error, rel=1e-9)
    assert found.interval[0] < found.perplexity < found.interval[1]


def test_the_second_half_of_a_window_is_scored():
    assert [first_scored(window) for window in (512, 511, 8)] == [257, 256, 5]
    assert len(range(first_scored(512), 512)) == 255


def test_two_models_are_compared_token_by_token():
    rng = np.random.default_rng(3)
    hard = rng.gamma(2.0, 1.0, size=(8, 255))
    other = hard + 0.1 + rng.normal(0, 0.01, size=hard.shape)
    found = paired(list(other), list(hard))
    assert found.difference == pytest.approx(0.1, abs=0.001)
    assert found.ratio == pytest.approx(exp(found.difference))
    low, high = found.difference_interval
    assert low < 0.1 < high
    assert high - low < 0.002  # the difficulty of a token is in both
    alone = perplexity(list(hard)).interval
    assert log(alone[1] / alone[0]) > 20 * (high - low)


def test_the_same_model_has_a_ratio_of_one():
    values = list(np.random.default_rng(4).gamma(2.0, 1.0, size=(3, 255)))
    found = paired(values, values)
    assert (found.ratio, found.ratio_interval) == (1.0, (1.0, 1.0))
