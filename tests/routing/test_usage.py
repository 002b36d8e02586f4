from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.arrays import ABSENT
from routing.usage import (
    UsageWindow,
    dead,
    experts_for,
    gini,
    jensen_shannon_distance,
    overlap,
    shares,
    usage_entropy,
)


def test_counts_of_a_layer_sum_to_rows_times_experts_per_token():
    window = UsageWindow(2, 8, size=0)
    window.add(np.array([[0, 1], [ABSENT, ABSENT]]))
    window.add(np.array([[1, 7], [3, 4]]))
    assert window.rows.tolist() == [2, 1]
    assert window.counts.sum(1).tolist() == [4, 2]
    assert window.shares()[0].tolist() == [0.25, 0.5, 0, 0, 0, 0, 0, 0.25]


def test_a_layer_without_rows_has_no_shares_rather_than_zeros():
    window = UsageWindow(1, 4)
    assert np.isnan(window.shares()).all()
    assert np.isnan(usage_entropy(window.counts)).all()


@given(st.integers(1, 9), st.lists(st.permutations(range(5)), min_size=1, max_size=40))
def test_a_window_holds_exactly_the_latest_tokens(size, orders):
    rows = [np.array([order[:2]]) for order in orders]
    window = UsageWindow(1, 5, size)
    for row in rows:
        window.add(row)
    expected = np.bincount(np.concatenate(rows[-size:]).ravel(), minlength=5)
    assert window.counts[0].tolist() == expected.tolist()
    assert window.tokens == min(size, len(rows))


def test_six_of_eight_experts_and_512_are_as_good_as_eight():
    for experts in (6, 512):
        window = UsageWindow(3, experts, size=4)
        window.add(np.tile([experts - 1, 0], (3, 1)))
        assert window.counts.shape == (3, experts)


def test_usage_statistics_by_hand():
    counts = np.array([[4, 3, 2, 1], [5, 5, 5, 5], [10, 0, 0, 0]])
    assert usage_entropy(counts)[1:].tolist() == pytest.approx([1.0, 0.0])
    assert gini(counts).tolist() == pytest.approx([0.25, 0.0, 0.75])
    assert experts_for(counts, 0.9).tolist() == [3, 4, 1]
    assert dead(counts).tolist() == [0, 0, 3]
    assert shares(counts)[0].tolist() == [0.4, 0.3, 0.2, 0.1]


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
