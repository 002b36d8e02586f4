"""Windows: every token of a text once, each window as a text begins."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_watch.sessions.scoring.windows import windows


def test_without_a_beginning_token() -> None:
    assert windows([5, 6, 7, 8, 9], 2, None) == [[5, 6], [7, 8]]  # a single token predicts none
    assert windows([5, 6, 7, 8, 9], 3, None) == [[5, 6, 7], [8, 9]]
    assert windows([5], 3, None) == []
    assert windows([], 3, None) == []


def test_each_window_begins_as_a_text_does() -> None:
    assert windows([1, 5, 6, 7], 3, 1) == [[1, 5, 6], [1, 7]]
    assert windows([5, 6, 7], 3, 1) == [[1, 5, 6], [1, 7]]
    assert windows([1], 3, 1) == []
    assert windows([1, 1, 5], 3, 1) == [[1, 1, 5]]


def test_a_window_of_one_token_is_an_error() -> None:
    with pytest.raises(ValueError, match="a window of 1 tokens"):
        windows([1, 2], 1, None)


@given(st.lists(st.integers(2, 9)), st.integers(2, 7), st.sampled_from([None, 1]))
def test_all_tokens_are_in_order_and_none_is_there_twice(ids: list[int], length: int, begin: int | None) -> None:
    found = windows(ids, length, begin)
    front = 0 if begin is None else 1
    together = [token for each in found for token in each[front:]]
    assert together == ids[: len(together)]
    assert len(ids) - len(together) <= 1
    assert all(2 <= len(each) <= length for each in found)
    assert all(len(each) == length for each in found[:-1])
