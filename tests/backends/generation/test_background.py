"""Work on another thread: order, errors, and its end."""

from __future__ import annotations

import gc
import threading

import pytest

from moe_watch.backends.generation.background import BackgroundThread


def test_pieces_are_done_in_order_on_another_thread() -> None:
    done: list[tuple[int, str]] = []
    beside = BackgroundThread[int](lambda piece: done.append((piece, threading.current_thread().name)), "beside-order")
    for piece in range(20):
        beside.begin(piece)
    beside.settle()
    beside.settle()
    assert done == [(piece, "beside-order") for piece in range(20)]


def test_the_owner_goes_on_meanwhile() -> None:
    may_end, has_ended = threading.Event(), threading.Event()

    def work(_: None) -> None:
        assert may_end.wait(10)
        has_ended.set()

    beside = BackgroundThread[None](work, "beside-meanwhile")
    beside.begin(None)
    assert not has_ended.is_set()
    may_end.set()
    beside.settle()
    assert has_ended.is_set()


def test_what_is_raised_comes_out_once_and_work_goes_on() -> None:
    done: list[int] = []

    def work(piece: int) -> None:
        if piece == 1:
            raise ConnectionError("nobody listens")
        done.append(piece)

    beside = BackgroundThread[int](work, "beside-errors")
    beside.begin(0)
    beside.begin(1)
    with pytest.raises(ConnectionError, match="nobody listens"):
        beside.begin(2)
    beside.settle()
    beside.begin(3)
    beside.settle()
    assert done == [0, 3]


def test_the_thread_ends_with_its_owner() -> None:
    beside = BackgroundThread[int](lambda _: None, "beside-end")
    beside.begin(0)
    [thread] = [each for each in threading.enumerate() if each.name == "beside-end"]
    del beside
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()
