from __future__ import annotations

import pytest

from moe_watch.routing.chunks import ChunkClock


def test_a_chunk_completes_with_its_last_token():
    clock = ChunkClock(3)
    assert [clock.advance() for _ in range(7)] == [False, False, True, False, False, True, False]


def test_what_completes_next_is_known_before():
    clock = ChunkClock(2)
    assert not clock.next_completes
    clock.advance()
    assert clock.next_completes
    assert clock.missing == 1


def test_what_is_missing_becomes_less_with_every_token():
    clock = ChunkClock(3)
    missing = []
    for _ in range(4):
        missing.append(clock.missing)
        clock.advance()
    assert missing == [3, 2, 1, 3]


def test_a_chunk_may_be_a_single_token():
    clock = ChunkClock(1)
    assert clock.next_completes
    assert [clock.advance(), clock.advance()] == [True, True]
    assert not clock.cut()


def test_a_cut_starts_counting_anew():
    clock = ChunkClock(3)
    assert not clock.cut()
    clock.advance()
    assert clock.cut()
    assert clock.missing == 3


def test_a_chunk_holds_at_least_one_token():
    with pytest.raises(ValueError, match="at least one"):
        ChunkClock(0)
