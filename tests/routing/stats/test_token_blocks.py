"""Block bootstrap of one series: the interval covers tokens that depend on each other.

Further tests are with the damage of experts: tests/routing/experts/test_ablation.py.
"""

from __future__ import annotations

import numpy as np

from moe_watch.routing.stats.token_blocks import Blocks, block_means


def correlated(rng, windows, length, phi):
    """Windows of an AR(1) series with mean 0 and variance 1."""
    noise = rng.normal(size=(windows, length)) * (1 - phi * phi) ** 0.5
    values = np.empty((windows, length))
    values[:, 0] = rng.normal(size=windows)
    for at in range(1, length):
        values[:, at] = phi * values[:, at - 1] + noise[:, at]
    return values


def interval(values):
    return block_means(Blocks.of(list(values))).interval(0)


def test_blocks_end_with_their_window():
    blocks = Blocks.of([np.arange(45.0), np.arange(7.0)])
    assert blocks.tokens.tolist() == [20, 20, 5, 7]
    assert blocks.sums.tolist() == [[190.0, 590.0, 210.0, 21.0]]
    assert blocks.means.tolist() == [(990 + 21) / 52]


def test_the_interval_is_the_same_each_time_and_shrinks_with_more_tokens():
    rng = np.random.default_rng(1)
    few, many = rng.normal(size=(4, 255)), rng.normal(size=(64, 255))
    (low, high), (narrow_low, narrow_high) = interval(few), interval(many)
    assert interval(few) == (low, high)
    assert 3 < (high - low) / (narrow_high - narrow_low) < 5.5  # √16 in the mean


def test_the_interval_covers_dependent_tokens_where_independence_would_not():
    rng, covered, naive = np.random.default_rng(2), 0, 0
    trials = 100
    for _ in range(trials):
        values = correlated(rng, 20, 255, 0.7)
        low, high = interval(values)
        covered += low <= 0 <= high
        naive += abs(values.mean()) <= 1.96 * values.std() / values.size**0.5
    assert covered / trials >= 0.86
    assert naive / trials <= 0.75
