from __future__ import annotations

import msgspec
import pytest

from routing.events import Chunk, Continues, Keyframe, State, Token, to_json
from routing.instruments import Instruments
from sessions.replay import ReplaySource
from sessions.source import Jump
from tests.sessions.kit import HEADER, ManualClock, make_token, tokens


def with_derived(events):
    instruments = Instruments(events[0])
    return [events[0], *(each for event in events[1:] for each in (event, *instruments.feed(event)))]


def opening(i):
    """How a part that goes on at token `i` begins."""
    instruments = Instruments(HEADER)
    for token in tokens(i):
        instruments.feed(token)
    return [
        msgspec.structs.replace(HEADER, continues=Continues(file="run.moe.jsonl", i=i)),
        instruments.keyframe(),
    ]


@pytest.fixture
def write(tmp_path):
    def write_events(name, events, end=b""):
        path = tmp_path / name
        path.write_bytes(b"".join(to_json(event) + b"\n" for event in events) + end)
        return path

    return write_events


@pytest.fixture
def events():
    return with_derived([HEADER, *tokens(900)])


@pytest.fixture
def run(write, events):
    """A run in three files, the first one's last line cut off; returns the first one's path."""
    first, second = (
        next(at for at, event in enumerate(events) if isinstance(event, Token) and event.i == i) for i in (302, 601)
    )
    write("run.3.moe.jsonl", [*opening(601), *events[second:]])
    write("run.2.moe.jsonl", [*opening(302), *events[first:second]])
    return write("run.moe.jsonl", events[:first], b'{"event":"tok')


def play(path):
    source = ReplaySource(path, ManualClock(), speed=0)
    source.start()
    items = []
    while not source.ended:
        items += source.drain()
    return items, source


def test_parts_are_played_as_one(run, events):
    items, source = play(run)
    assert items == events
    assert source.warnings == []
    assert source.timeline.tokens == 900


def test_a_jump_across_parts(run, events):
    source = ReplaySource(run, ManualClock())
    source.start()
    source.pause()
    source.seek(Jump("token", 800))
    at = next(at for at, event in enumerate(events) if isinstance(event, Token) and event.i == 800)
    assert source.drain() == events[:at]


def test_a_part_alone_says_what_it_is(run):
    part = run.with_name("run.2.moe.jsonl")
    items, source = play(part)
    assert isinstance(items[1], Keyframe)
    assert [item.i for item in items if isinstance(item, Token)] == list(range(302, 601))
    assert source.warnings == [f"{part.name}: goes on at token 302 with what run.moe.jsonl began, read alone"]


def test_a_missing_part_ends_it_and_says_so(run):
    run.with_name("run.2.moe.jsonl").unlink()
    items, source = play(run)
    assert [item.i for item in items if isinstance(item, Token)][-1] == 301
    third = run.with_name("run.3.moe.jsonl")
    assert source.warnings[-1] == f"{run}: something is missing after token 302; what comes later is in {third}"


def test_dropped_events_end_it_and_say_so(write, events):
    first = write("run.moe.jsonl", with_derived([HEADER, *tokens(10)]))
    second = write("run.2.moe.jsonl", [*opening(10), State(state="dropped", i=10, t=0.5, count=3), make_token(12)])
    items, source = play(first)
    assert [item.i for item in items if isinstance(item, Token)] == list(range(10))
    assert source.warnings == [f"{first}: something is missing after token 10; what comes later is in {second}"]


def test_files_of_other_runs_are_left_alone(write, events):
    first = write("run.moe.jsonl", with_derived([HEADER, *tokens(10)]))
    other, frame = opening(10)
    write("run.2.moe.jsonl", [msgspec.structs.replace(other, created="2020-01-01T00:00:00Z"), frame, make_token(10)])
    write("run.3.moe.jsonl", [HEADER, make_token(0)])
    write("run.4.moe.jsonl", [], b"garbage")
    items, source = play(first)
    assert [item.i for item in items if isinstance(item, Token)] == list(range(10))
    assert source.warnings == []


def test_damage_is_told_by_file_and_line(run):
    third = run.with_name("run.3.moe.jsonl")
    lines = third.read_bytes().splitlines()
    third.write_bytes(b"\n".join([*lines[:5], b"garbage", *lines[5:]]) + b"\n")
    _, source = play(run)
    assert str(source.fatal_error).startswith(f"{third}, line 6: not JSON")


def test_chunk_from_before_a_part_is_taken_as_it_stands(write):
    events = with_derived([HEADER, *tokens(8)])
    assert isinstance(events[-1], Chunk)
    part = write("run.2.moe.jsonl", [*opening(8), events[-1], make_token(8)])
    items, source = play(part)
    assert events[-1] in items
    assert "differ" not in "".join(source.warnings)
