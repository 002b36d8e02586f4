"""A refused command in a recording of schema 1.2 is an event, and not a marker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from moe_watch.routing.events import Marker, Refused, StreamItem
from moe_watch.routing.summary import Summary
from moe_watch.sessions.reading.reader import read_session
from moe_watch.sessions.replaying.source import ReplaySource
from moe_watch.sessions.source import END, HOME, Jump
from tests.processes import wait_until
from tests.sessions.kit import ManualClock

NEXT_MARKER = Jump("mark", 1, relative=True)
PREVIOUS_MARKER = Jump("mark", -1, relative=True)


@pytest.fixture
def source(golden_path) -> Iterator[ReplaySource]:
    replay = ReplaySource(golden_path, ManualClock())
    replay.start()
    replay.pause()
    yield replay
    replay.close()


def position_after(source: ReplaySource, jump: Jump) -> int:
    """Return the index of the next token after a jump."""
    items: list[StreamItem] = []
    source.seek(jump)

    def is_there() -> bool:
        more = source.drain()
        items.extend(more)
        return bool(items) and not more

    wait_until(is_there, "the end of the jump")
    assert source.timeline is not None
    return source.timeline.position


def test_the_file_has_one_of_each(golden_path):
    kinds = [type(event) for event in read_session(golden_path)]
    assert (kinds.count(Marker), kinds.count(Refused)) == (1, 1)


def test_the_summary_counts_markers_only(golden_path):
    summary = Summary()
    for event in read_session(golden_path):
        summary.feed(event)
    found = summary.result()
    assert found is not None
    assert found.marks == 1


def test_seeking_by_markers_passes_it(source):
    assert position_after(source, HOME) == 0
    assert position_after(source, NEXT_MARKER) == 7
    assert position_after(source, NEXT_MARKER) == position_after(source, END) == 9
    assert position_after(source, PREVIOUS_MARKER) == 7
    assert [type(marker) for marker in source.timeline.marks] == [Marker]
