"""Sums and rankings of experts, with known answers."""

from __future__ import annotations

import numpy as np
import pytest

from moe_watch.routing.experts.rankings import RANKINGS
from moe_watch.routing.experts.sums import ExpertSums, ranked, total


def sums(counts: list[list[int]], norms: list[list[float]] | None = None) -> ExpertSums:
    table = np.array(counts, np.int64)
    rows = table.sum(1) // 2
    return ExpertSums(rows, table, table * 0.25, None if norms is None else np.array(norms), rows * 0.5)


def test_saliency_is_a_mean_over_the_experts_own_tokens() -> None:
    found = sums([[4, 0, 2]], [[6.0, 0.0, 1.0]])
    assert found.saliency is not None
    np.testing.assert_array_equal(found.saliency, [[1.5, np.nan, 0.5]])
    assert found.ranking("saliency_mass") is found.norms
    assert found.mean_entropy == pytest.approx([0.5])


def test_a_sum_of_parts_is_the_sum_of_the_whole() -> None:
    a, b = sums([[4, 0, 2]], [[6.0, 0.0, 1.0]]), sums([[2, 2, 0]], [[1.0, 8.0, 0.0]])
    both = total([a, b])
    np.testing.assert_array_equal(both.counts, [[6, 2, 2]])
    np.testing.assert_array_equal(both.rows, [5])
    np.testing.assert_allclose(both.saliency, [[7 / 6, 4.0, 0.5]])  # not the mean of the parts' means


def test_a_quantity_that_a_part_lacks_is_absent_from_the_sum() -> None:
    both = sums([[4, 2]], [[6.0, 1.0]]) + sums([[4, 2]])
    assert both.norms is None
    assert both.saliency is None
    assert both.ranking("saliency") is None
    assert both.weights is not None
    assert {by for by in RANKINGS if both.ranking(by) is None} == {"saliency", "saliency_mass"}


def test_never_routed_experts_rank_last_and_equal_ones_by_number() -> None:
    values = np.array([[np.nan, 2.0, 0.0, 2.0], [1.0, np.nan, np.nan, 3.0]])
    assert ranked(values).tolist() == [[1, 3, 2, 0], [3, 0, 1, 2]]


def test_entropy_without_rows_is_absent() -> None:
    nothing = ExpertSums(np.array([0, 2]), np.array([[0, 0], [2, 0]]), entropy=np.array([0.0, 1.0]))
    np.testing.assert_array_equal(nothing.mean_entropy, [np.nan, 0.5])
