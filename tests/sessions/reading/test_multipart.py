from __future__ import annotations

import msgspec
import pytest
import zstandard

from moe_watch.routing.events import Chunk, Continues, Keyframe, State, Token, to_json
from moe_watch.routing.pressure.instruments import Instruments
from moe_watch.sessions.replaying.source import ReplaySource
from moe_watch.sessions.source import Jump
from tests.sessions.kit import HEADER, ManualClock, make_token, tokens
from tests.sessions.replaying.test_seeking import rest


def with_derived(events):
    instruments = Instruments(events[0])
    return [events[0], *(each for event in events[1:] for each in (event, *instruments.feed(event)))]


def opening(i):
    """Return the header and keyframe of a continuation file from token `i`."""
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
    first, second = at_token(events, 302), at_token(events, 601)
    write("run.3.moe.jsonl", [*opening(601), *events[second:]])
    write("run.2.moe.jsonl", [*opening(302), *events[first:second]])
    return write("run.moe.jsonl", events[:first], b'{"event":"tok')


def at_token(events, i):
    return next(at for at, event in enumerate(events) if isinstance(event, Token) and event.i == i)


def play(path):
    source = ReplaySource(path, ManualClock(), speed=0)
    source.start()
    return rest(source), source


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
    items = source.drain()
    at = at_token(events, 800)
    assert items == events[:at] or items[1:] == events[at - len(items) + 1 : at]


def test_a_part_alone_says_what_it_is(run):
    part = run.with_name("run.2.moe.jsonl")
    items, source = play(part)
    assert isinstance(items[1], Keyframe)
    assert [item.i for item in items if isinstance(item, Token)] == list(range(302, 601))
    assert source.warnings == [f"{part.name}: continues run.moe.jsonl at token 302; it is read alone"]


def test_a_missing_part_is_told_and_what_follows_is_played(run, events):
    run.with_name("run.2.moe.jsonl").unlink()
    items, source = play(run)
    third = run.with_name("run.3.moe.jsonl")
    assert source.warnings[-1] == f"{run}: tokens 302 to 600 are missing before {third}"
    assert source.fatal_error is None
    resumed = next(at for at, item in enumerate(items) if isinstance(item, Keyframe) and item.i == 601)
    assert items[:resumed] == events[: at_token(events, 302)]
    later = [event for event in events[at_token(events, 601) :] if not isinstance(event, Keyframe)]
    assert items[resumed + 1 :] == later


@pytest.mark.parametrize("i", [200, 301, 601, 750, 880])
def test_a_jump_over_a_missing_part(run, events, i):
    run.with_name("run.2.moe.jsonl").unlink()
    source = ReplaySource(run, ManualClock())
    source.start()
    source.pause()
    source.seek(Jump("token", i))
    items = source.drain()
    assert source.timeline.position in (i, 302)
    shown = [item.i for item in items if isinstance(item, Token)]
    assert shown == [index for index in range(i) if index < 302 or index >= 601][-len(shown) :]
    items += rest(source)
    assert items[-1] == events[-1]
    assert not any("differ" in warning for warning in source.warnings)


def test_dropped_events_are_told_and_what_follows_is_played(write):
    first = write("run.moe.jsonl", with_derived([HEADER, *tokens(10)]))
    later = [State(state="dropped", i=12, t=0.5, count=3), *tokens(4, first=12)]
    second = write("run.2.moe.jsonl", [*opening(12), *later])
    items, source = play(first)
    assert [item.i for item in items if isinstance(item, Token)] == [*range(10), *range(12, 16)]
    assert later[0] in items
    assert source.warnings == [f"{first}: tokens 10 to 11 are missing before {second}"]


def test_dropped_events_that_are_no_tokens(write):
    first = write("run.moe.jsonl", with_derived([HEADER, *tokens(10)]))
    second = write("run.2.moe.jsonl", [*opening(10), State(state="dropped", i=10, t=0.5, count=1), make_token(10)])
    items, source = play(first)
    assert [item.i for item in items if isinstance(item, Token)] == list(range(11))
    assert source.warnings == [f"{first}: some events at token 10 are missing before {second}"]


def test_a_part_from_before_the_end_is_left_out(write):
    first = write("run.moe.jsonl", with_derived([HEADER, *tokens(10)]))
    second = write("run.2.moe.jsonl", [*opening(7), *tokens(5, first=7)])
    items, source = play(first)
    assert [item.i for item in items if isinstance(item, Token)] == list(range(10))
    assert source.warnings == [f"{second}: skipped (does not continue after token 10)"]


def test_compressed_parts_are_played_as_one(run, events):
    for path in sorted(run.parent.iterdir()):
        path.with_name(path.name + ".zst").write_bytes(zstandard.compress(renamed(path.read_bytes())))
        path.unlink()
    items, source = play(run.with_name("run.moe.jsonl.zst"))
    assert items == events
    assert source.warnings == []


def renamed(data):
    return data.replace(b'"file":"run.moe.jsonl"', b'"file":"run.moe.jsonl.zst"')


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
