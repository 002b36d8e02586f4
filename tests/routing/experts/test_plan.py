"""Pruning plans with known answers."""

from __future__ import annotations

import numpy as np
import pytest

from moe_watch.routing.errors import UserError
from moe_watch.routing.experts.plan import dropped_experts, kept_experts, lost, lost_overall, possible_keeps
from moe_watch.routing.router.masks import ExpertGroups

NAN = float("nan")


def test_the_highest_stay_and_ties_keep_the_lower_index() -> None:
    ranking = np.array([[1.0, 5.0, 3.0, 5.0], [2.0, 2.0, 2.0, 2.0]])
    assert kept_experts(ranking, 2).tolist() == [[1, 3], [0, 1]]
    assert kept_experts(ranking, 1).tolist() == [[1], [0]]
    assert kept_experts(ranking, 4).tolist() == [[0, 1, 2, 3], [0, 1, 2, 3]]


def test_an_unknown_rank_is_below_every_number() -> None:
    assert kept_experts(np.array([[NAN, -7.0, 0.0, NAN]]), 2).tolist() == [[1, 2]]
    assert kept_experts(np.array([[NAN, -7.0, 0.0, NAN]]), 3).tolist() == [[0, 1, 2]]


def test_every_group_keeps_the_same_number() -> None:
    ranking = np.array([[9.0, 8.0, 7.0, 1.0, 2.0, 3.0]])
    assert kept_experts(ranking, 4).tolist() == [[0, 1, 2, 5]]
    assert kept_experts(ranking, 4, ExpertGroups(count=2, used=1)).tolist() == [[0, 1, 4, 5]]


@pytest.mark.parametrize(("keep", "groups"), [(0, None), (7, None), (3, ExpertGroups(count=2, used=1))])
def test_impossible_numbers_are_refused(keep: int, groups: ExpertGroups | None) -> None:
    with pytest.raises(UserError):
        kept_experts(np.zeros((1, 6)), keep, groups)


def test_the_dropped_are_the_others() -> None:
    kept = kept_experts(np.array([[1.0, 5.0, 3.0, 5.0], [4.0, 3.0, 2.0, 1.0]]), 2)
    assert dropped_experts(kept, 4).tolist() == [[0, 2], [2, 3]]
    assert dropped_experts(kept_experts(np.ones((2, 4)), 4), 4).shape == (2, 0)


def test_lost_shares() -> None:
    counts = np.array([[10, 20, 30, 40], [0, 0, 0, 0], [1, 1, 1, 97]])
    kept = np.array([[2, 3], [0, 1], [0, 1]])
    assert lost(counts, kept).tolist() == pytest.approx([0.3, NAN, 0.98], nan_ok=True)
    assert lost_overall(counts, kept) == pytest.approx(128 / 200)
    assert np.isnan(lost_overall(np.zeros((1, 4)), np.array([[0]])))


@pytest.mark.parametrize(
    ("experts", "k", "groups", "expected"),
    [
        (4, 2, None, [2, 3, 4]),
        (8, 2, ExpertGroups(count=2, used=1), [4, 6, 8]),
        (16, 6, ExpertGroups(count=4, used=2), [12, 16]),
    ],
)
def test_possible_numbers(experts: int, k: int, groups: ExpertGroups | None, expected: list[int]) -> None:
    assert list(possible_keeps(experts, k, groups)) == expected
