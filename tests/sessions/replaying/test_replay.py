from __future__ import annotations

import gc
import json
import tracemalloc
import weakref

import msgspec
import pytest

from moe_watch.routing.errors import UserError
from moe_watch.routing.events import (
    Chunk,
    Header,
    Keyframe,
    Marker,
    State,
    Token,
    Unknown,
    Vitals,
    to_json,
)
from moe_watch.routing.pressure.instruments import Instruments
from moe_watch.sessions.reading.recompute import agree
from moe_watch.sessions.replaying.player import ITEMS_PER_DRAIN
from moe_watch.sessions.replaying.search import Searchable
from moe_watch.sessions.replaying.source import ReplaySource
from moe_watch.sessions.source import Jump, Origin, Recordable, Seekable, Steerable
from tests.processes import wait_until
from tests.sessions.kit import HEADER, ManualClock, make_token, tokens


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def write(tmp_path):
    path = tmp_path / "session.moe.jsonl"

    def write_events(events):
        path.write_bytes(b"".join(to_json(event) + b"\n" for event in events))
        return path

    return write_events


def with_derived(events):
    """Return these events with the chunks and keyframes of a live run."""
    instruments = Instruments(events[0])
    return [events[0], *(each for event in events[1:] for each in (event, *instruments.feed(event)))]


def play(path):
    """Everything in a file, and the source at its end."""
    source = ReplaySource(path, ManualClock(), speed=0)
    source.start()
    items = []
    while not source.ended:
        drained = source.drain()
        assert drained or source.ended
        items += drained
    return items, source


def times(items):
    return [item.t for item in items if isinstance(item, Token)]


class TestContent:
    def test_golden_session(self, golden_path, golden_events):
        items, source = play(golden_path)
        shown = [event for event in golden_events if not isinstance(event, Keyframe)]
        assert [type(item) for item in items] == [type(event) for event in shown]
        assert all(agree(item, event) for item, event in zip(items, shown, strict=True))
        assert source.warnings == []

    def test_replay_of_a_replay_is_the_same_to_the_last_digit(self, write):
        events = with_derived([HEADER, *tokens(1010)])
        assert sum(isinstance(event, Keyframe) for event in events) == 1
        items, source = play(write(events))
        assert items == events
        assert source.warnings == []

    def test_chunks_are_made_where_the_file_has_none(self, write):
        events = with_derived([HEADER, *tokens(9)])
        items, source = play(write([event for event in events if not isinstance(event, Chunk)]))
        assert items == events
        assert source.warnings == []

    def test_wrong_chunk_is_not_shown_and_counted(self, write):
        events = with_derived([HEADER, *tokens(9)])
        at = next(at for at, event in enumerate(events) if isinstance(event, Chunk))
        forged = msgspec.structs.replace(events[at], residual=events[at].residual + 2e-9)
        path = write([*events[:at], forged, *events[at + 1 :]])
        items, source = play(path)
        assert items == events
        assert source.warnings == [
            f"{path}: chunks or keyframes that differ from the tokens: 1; the recomputed ones are shown"
        ]

    def test_last_digits_may_differ(self, write):
        events = with_derived([HEADER, *tokens(9)])
        at = next(at for at, event in enumerate(events) if isinstance(event, Chunk))
        near = msgspec.structs.replace(events[at], residual=events[at].residual + 5e-10)
        items, source = play(write([*events[:at], near, *events[at + 1 :]]))
        assert items == events
        assert source.warnings == []

    def test_chunk_that_no_token_completes_is_not_shown_and_counted(self, write):
        invented = Chunk(index=7, first=0, last=1, tokens=2)
        items, source = play(write([HEADER, *tokens(2), invented]))
        assert [type(item) for item in items] == [Header, Token, Token]
        assert "chunks or keyframes that differ from the tokens: 1;" in source.warnings[0]

    def test_wrong_keyframe_is_counted(self, write):
        instruments = Instruments(HEADER)
        few = list(tokens(3))
        for token in few:
            instruments.feed(token)
        frame = instruments.keyframe()
        assert play(write([HEADER, *few, frame]))[1].warnings == []
        forged = msgspec.structs.replace(frame, chunks=1)
        assert (
            "chunks or keyframes that differ from the tokens: 1;" in play(write([HEADER, *few, forged]))[1].warnings[0]
        )

    def test_recording_that_begins_in_the_middle_goes_on_from_its_keyframe(self, write):
        events = with_derived([HEADER, *tokens(30)])
        instruments = Instruments(HEADER)
        for token in tokens(10):
            instruments.feed(token)
        cut = next(at for at, event in enumerate(events) if isinstance(event, Token) and event.i == 10)
        frame = instruments.keyframe()
        assert frame.open_chunk is not None
        items, source = play(write([HEADER, frame, *events[cut:]]))
        assert items == [HEADER, frame, *events[cut:]]
        assert source.warnings == []

    def test_unknown_events_are_passed_on(self, write):
        later = Unknown("later", b'{"event":"later"}')
        header = msgspec.structs.replace(HEADER, schema_minor=99)
        items, _ = play(write([header, make_token(0), later, make_token(1)]))
        assert items == [header, make_token(0), later, make_token(1)]

    def test_torn_file(self, write):
        path = write([HEADER, *tokens(2)])
        with path.open("ab") as file:
            file.write(b'{"event":"tok')
        items, source = play(path)
        assert len(items) == 3
        assert source.warnings == [f"{path}: the last line is cut off; read up to line 3"]
        assert source.fatal_error is None

    def test_damaged_file_plays_up_to_there_and_says_why_it_stops(self, write):
        path = write([HEADER, *tokens(2)])
        with path.open("ab") as file:
            file.write(b"garbage\n" + to_json(make_token(2)) + b"\n")
        items, source = play(path)
        assert [type(item) for item in items] == [Header, Token, Token, State]
        assert items[-1].state == "error"
        assert items[-1].i == 2
        assert ", line 4: not JSON (" in items[-1].message
        assert str(source.fatal_error) == items[-1].message

    def test_file_that_is_no_session_is_refused_at_once(self, tmp_path):
        with pytest.raises(UserError, match="no such file"):
            ReplaySource(tmp_path / "none").start()


class TestTiming:
    @pytest.fixture
    def path(self, write):
        return write([HEADER, *tokens(100)])  # a token every 0.05 s

    def start(self, path, clock, speed=1.0):
        source = ReplaySource(path, clock, speed)
        source.start()
        return source

    def test_events_come_at_their_time(self, path, clock):
        source = self.start(path, clock)
        assert times(source.drain()) == [0.0]
        clock.advance(0.049)
        assert source.drain() == []
        clock.advance(0.002)
        assert times(source.drain()) == [0.05]
        clock.advance(1.0)
        assert times(source.drain()) == [round(0.05 * i, 3) for i in range(2, 22)]

    @pytest.mark.parametrize(("speed", "number"), [(0.25, 6), (0.5, 11), (2.0, 41), (4.0, 81)])
    def test_speed(self, path, clock, speed, number):
        source = self.start(path, clock, speed)
        source.drain()
        clock.advance(1.0001)
        assert len(times(source.drain())) == number - 1
        assert source.pace.value == speed

    @pytest.mark.parametrize(("asked", "given"), [(0.01, 0.25), (99.0, 16.0), (-3.0, 0.0), (0.0, 0.0)])
    def test_speeds_beyond_what_there_is(self, path, clock, asked, given):
        assert self.start(path, clock, asked).pace.value == given
        source = self.start(path, clock)
        source.set_pace(asked)
        assert source.pace.value == given
        assert source.pace.kind == "speed"

    def test_change_of_speed_goes_on_from_where_it_is(self, path, clock):
        source = self.start(path, clock)
        source.drain()
        clock.advance(0.501)
        source.set_pace(2.0)
        assert len(source.drain()) > 0
        clock.advance(0.5)
        assert times(source.drain())[-1] == 1.5

    def test_pause_holds_everything(self, path, clock):
        source = self.start(path, clock)
        source.drain()
        clock.advance(0.26)
        source.pause()
        assert source.pace.paused
        clock.advance(60.0)
        assert source.drain() == []
        source.resume()
        assert not source.pace.paused
        assert times(source.drain())[-1] == 0.25
        clock.advance(0.05)
        assert times(source.drain()) == [0.3]

    def test_pause_twice_is_one_pause(self, path, clock):
        source = self.start(path, clock)
        source.drain()
        source.pause()
        clock.advance(5.0)
        source.pause()
        source.resume()
        source.resume()
        clock.advance(0.051)
        assert times(source.drain()) == [0.05]

    def test_paused_before_anything_played(self, path, clock):
        source = self.start(path, clock)
        source.pause()
        clock.advance(5.0)
        assert source.drain() == []
        source.resume()
        assert len(times(source.drain())) == 1

    def test_speed_can_change_during_a_pause(self, path, clock):
        source = self.start(path, clock)
        source.drain()
        source.pause()
        source.set_pace(4.0)
        clock.advance(5.0)
        source.resume()
        clock.advance(0.0501)
        assert times(source.drain())[-1] == 0.2

    def test_from_as_fast_as_it_goes_back_to_recorded_time(self, write, clock):
        source = self.start(write([HEADER, *tokens(600)]), clock, speed=0)
        assert len(source.drain()) == ITEMS_PER_DRAIN
        source.set_pace(1.0)
        assert len(source.drain()) == 1
        assert source.drain() == []
        clock.advance(0.051)
        assert len(times(source.drain())) == 1

    def test_as_fast_as_it_goes_leaves_time_to_draw(self, write, clock):
        source = self.start(write([HEADER, *tokens(600)]), clock, speed=0)
        sizes = []
        while not source.ended:
            sizes.append(len(source.drain()))
        assert max(sizes) == ITEMS_PER_DRAIN
        assert sum(sizes) == 601 + 150

    def test_where_the_drain_is_too_slow_the_replay_slows_down(self, write, clock):
        source = self.start(write([HEADER, *tokens(2000)]), clock)
        source.drain()
        clock.advance(60.0)
        assert len(source.drain()) == ITEMS_PER_DRAIN
        assert len(source.drain()) == 1
        assert source.drain() == []
        clock.advance(0.0501)
        assert len(times(source.drain())) == 1

    def test_dead_time_before_the_first_event_is_skipped(self, write, clock):
        source = self.start(write([HEADER, *tokens(3, first=1000)]), clock)
        assert times(source.drain()) == [50.0]
        clock.advance(0.0501)
        assert times(source.drain()) == [50.05]

    def test_events_without_a_time_come_with_the_one_before(self, write, clock):
        late = Vitals(t=9.0)
        source = self.start(write(with_derived([HEADER, *tokens(4), late])), clock)
        clock.advance(0.0)
        source.drain()
        clock.advance(0.1501)
        assert [type(item) for item in source.drain()] == [Token, Token, Token, Chunk]
        assert not source.ended
        clock.advance(9.0)
        assert source.drain() == [late]
        assert source.ended

    def test_long_wait_is_cut_short(self, write, clock):
        late = msgspec.structs.replace(make_token(2), t=600.0)
        source = self.start(write([HEADER, *tokens(2), late, msgspec.structs.replace(make_token(3), t=600.05)]), clock)
        source.drain()
        clock.advance(0.0501)
        assert times(source.drain()) == [0.05]
        clock.advance(1.9)
        assert source.drain() == []
        clock.advance(0.1)
        assert times(source.drain()) == [600.0]
        clock.advance(0.0501)
        assert times(source.drain()) == [600.05]

    def test_readings_of_the_machine_do_not_make_a_wait_longer(self, write, clock):
        readings = [Vitals(t=float(second)) for second in range(1, 60)]
        late = msgspec.structs.replace(make_token(1), t=60.0)
        source = self.start(write([HEADER, make_token(0), *readings, late]), clock)
        source.drain()
        clock.advance(1.99)
        assert [type(item) for item in source.drain()] == [Vitals]
        clock.advance(0.02)
        assert source.drain() == [*readings[1:], late]

    def test_a_slow_run_is_waited_for(self, write, clock):
        slow = [msgspec.structs.replace(token, t=1.9 * token.i) for token in tokens(3)]
        source = self.start(write([HEADER, *slow]), clock)
        source.drain()
        clock.advance(1.8)
        assert source.drain() == []
        clock.advance(0.1001)
        assert times(source.drain()) == [1.9]

    def test_a_time_before_the_last_one_does_not_turn_time_back(self, write, clock):
        events = [HEADER, make_token(4), Marker(i=5, t=0.0), make_token(5)]
        source = self.start(write(events), clock)
        assert len(source.drain()) == 3
        clock.advance(0.0501)
        assert times(source.drain()) == [0.25]


class TestAsSource:
    def test_abilities(self, golden_path, clock):
        source = ReplaySource(golden_path, clock)
        source.start()
        assert source.abilities == {"pause", "speed", "seek"}
        source.close()
        assert source.abilities == frozenset()

    def test_origin(self, golden_path, clock):
        source = ReplaySource(golden_path, clock)
        source.start()
        size = golden_path.stat().st_size
        assert source.origin == Origin("session", name=golden_path.name, path=str(golden_path), bytes=size)

    def test_interfaces(self, golden_path):
        """A recorded run takes no commands, and is not recorded again."""
        source = ReplaySource(golden_path)
        assert isinstance(source, Seekable)
        assert isinstance(source, Searchable)
        assert not isinstance(source, Steerable)
        assert not isinstance(source, Recordable)

    def test_close_ends_it(self, golden_path, clock):
        source = ReplaySource(golden_path, clock, speed=0)
        source.start()
        source.close()
        source.close()
        assert source.ended
        assert source.drain() == []

    def test_start_twice_begins_once(self, golden_path, clock):
        source = ReplaySource(golden_path, clock, speed=0)
        source.start()
        first = source.drain()
        source.start()
        assert first
        assert source.drain() == []


def untouched(source):
    source.drain()


def played(source):
    while not source.ended:
        source.drain()


def played_again(source):
    """As one does who goes back from where it was damaged."""
    played(source)
    sought(source)
    played(source)


def sought(source):
    source.seek(Jump("token", 60))
    for _ in range(20):
        source.drain()


def searched(source):
    source.drain()
    search = source.search("t50")
    wait_until(lambda: search.over, "the search")


@pytest.mark.parametrize("use", [untouched, played, played_again, sought, searched])
@pytest.mark.parametrize("damage", [b"", b'{"event":"token","i":', b"no JSON\n" * 2], ids=["whole", "torn", "damaged"])
def test_a_closed_replay_is_gone_without_the_garbage_collector(write, use, damage):
    path = write(with_derived([HEADER, *tokens(120)]))
    path.write_bytes(path.read_bytes() + damage)
    gc.collect()
    gc.disable()
    try:
        source = ReplaySource(path, ManualClock(), speed=0)
        source.start()
        use(source)
        source.close()
        left = weakref.ref(source)
        del source
        assert left() is None
    finally:
        gc.enable()


def test_a_long_file_is_not_read_into_memory(write):
    path = write([HEADER])
    line = json.loads(to_json(make_token(1))) | {"text": "x" * 1_000_000}
    with path.open("ab") as file:
        for i in range(50):
            file.write(json.dumps(line | {"i": i, "t": i}).encode() + b"\n")
    tracemalloc.start()
    try:
        source = ReplaySource(path, ManualClock())
        source.start()
        assert len(times(source.drain())) == 1
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
