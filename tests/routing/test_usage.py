from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_watch.routing.arrays import ABSENT, Selections
from moe_watch.routing.usage.counts import (
    UsageCounts,
    add_selections,
    dead,
    experts_for,
    gini,
    jensen_shannon_distance,
    overlap,
    overlaps,
    shares,
    usage_entropy,
)


def test_counts_of_a_layer_sum_to_rows_times_experts_per_token():
    window = UsageCounts(2, 8)
    window.add(np.array([[0, 1], [ABSENT, ABSENT]]))
    window.add(np.array([[1, 7], [3, 4]]))
    assert window.rows.tolist() == [2, 1]
    assert window.counts.sum(1).tolist() == [4, 2]
    assert window.shares()[0].tolist() == [0.25, 0.5, 0, 0, 0, 0, 0, 0.25]


def test_a_layer_without_rows_has_no_shares_rather_than_zeros():
    window = UsageCounts(1, 4)
    assert np.isnan(window.shares()).all()
    assert np.isnan(usage_entropy(window.counts)).all()
    assert experts_for(window.counts).tolist() == [0], "none carry anything"


def test_six_of_eight_experts_and_512_are_as_good_as_eight():
    for experts in (6, 512):
        window = UsageCounts(3, experts)
        window.add(np.tile([experts - 1, 0], (3, 1)))
        assert window.counts[:, [0, experts - 1]].tolist() == [[1, 1]] * 3
        assert window.counts.sum() == 6


def test_usage_statistics_by_hand():
    counts = np.array([[4, 3, 2, 1], [5, 5, 5, 5], [10, 0, 0, 0]])
    assert usage_entropy(counts)[1:].tolist() == pytest.approx([1.0, 0.0])
    assert gini(counts).tolist() == pytest.approx([0.25, 0.0, 0.75])
    assert experts_for(counts, 0.9).tolist() == [3, 4, 1]
    assert dead(counts).tolist() == [0, 0, 3]
    assert shares(counts)[0].tolist() == [0.4, 0.3, 0.2, 0.1]


@pytest.mark.filterwarnings("error")
def test_a_single_expert_is_never_dead_and_has_no_entropy():
    counts = np.array([[7]])
    assert np.isnan(usage_entropy(counts)).all()
    assert (gini(counts).tolist(), experts_for(counts).tolist(), dead(counts).tolist()) == ([0.0], [1], [0])


def test_jensen_shannon_distance_runs_from_equal_to_disjoint():
    p, q = np.array([0.5, 0.5, 0.0]), np.array([0.0, 0.0, 1.0])
    assert jensen_shannon_distance(p, p) == 0
    assert jensen_shannon_distance(p, q) == pytest.approx(1)
    # divergence of (1,0) and (½,½): ½·log2(4/3) + ½·(½·log2(2/3) + ½·log2 2) = 0.31128
    assert jensen_shannon_distance(np.array([1.0, 0]), np.array([0.5, 0.5])) ** 2 == pytest.approx(0.311278, abs=1e-6)


def test_overlap_is_the_jaccard_similarity_of_sets():
    now, before = np.array([[0, 1], [2, 3], [4, 5]]), np.array([[1, 0], [3, 7], [6, 7]])
    assert overlap(now, before).tolist() == pytest.approx([1, 1 / 3, 0])


def test_overlap_with_an_absent_row_is_unknown():
    assert np.isnan(overlap(np.array([[0, 1]]), np.array([[ABSENT, ABSENT]])))[0]


def drawn(tokens, layers, experts, k, seed):
    """Random expert ids `[N, L, k]`; a fifth of the rows is absent."""
    rng = np.random.default_rng(seed)
    ids = rng.permuted(np.tile(np.arange(experts), (tokens, layers, 1)), axis=2)[:, :, :k]
    ids[rng.random((tokens, layers)) < 0.2] = ABSENT
    return ids


@given(st.integers(1, 30), st.integers(1, 4), st.integers(1, 4), st.integers(0, 99))
def test_tokens_together_count_as_one_by_one(tokens, layers, k, seed):
    ids = drawn(tokens, layers, 4, k, seed)
    chosen, counts, window = Selections(ids, 4), np.zeros((layers, 4), np.int64), UsageCounts(layers, 4)
    for row in ids:
        add_selections(counts, row)
        window.add(row)
    assert chosen.counts().tolist() == counts.tolist() == window.counts.tolist()
    assert chosen.rows().tolist() == window.rows.tolist() == (ids[:, :, 0] != ABSENT).sum(0).tolist()


@given(st.integers(1, 30), st.integers(1, 4), st.integers(1, 4), st.integers(0, 99), st.booleans())
def test_overlaps_of_tokens_together_are_those_of_each_pair(tokens, layers, k, seed, first):
    ids = drawn(tokens + 1, layers, 5, k, seed)
    expected = np.array([overlap(now, before) for now, before in zip(ids[1:], ids[:-1], strict=True)])
    if first:
        expected[0] = np.nan
    found = overlaps(Selections(ids[1:], 5), None if first else ids[0])
    assert np.array_equal(found, expected, equal_nan=True)
