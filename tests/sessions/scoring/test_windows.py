"""Windows: every token of a text once, each window as a text begins."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_watch.routing.errors import UserError
from moe_watch.sessions.scoring.windows import chosen_window, windows


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


@pytest.mark.parametrize(
    ("asked", "trained", "context", "chosen"),
    [
        (None, None, None, 512),
        (None, 2048, 8192, 512),
        (None, 128, 8192, 128),
        (None, 2048, 256, 256),
        (1000, 128, 2000, 1000),
        (2, None, None, 2),
    ],
)
def test_the_window(asked: int | None, trained: int | None, context: int | None, chosen: int) -> None:
    assert chosen_window(asked, trained, context) == chosen


@pytest.mark.parametrize(("asked", "said"), [(1, "--window is 1"), (513, "--window is 513, but the context has 512")])
def test_an_impossible_window(asked: int, said: str) -> None:
    with pytest.raises(UserError, match=said):
        chosen_window(asked, None, 512)
