from __future__ import annotations

import random
import time

import msgspec
import pytest

from moe_watch.routing.events import (
    Chunk,
    Header,
    Keyframe,
    Marker,
    Perturbation,
    State,
    Token,
    Unknown,
    Vitals,
    to_json,
)
from moe_watch.routing.pressure.instruments import Instruments
from moe_watch.sessions.replaying.source import ReplaySource
from moe_watch.sessions.source import END, HOME, Jump
from tests.processes import LONG
from tests.sessions.kit import HEADER, ManualClock, make_token, tokens

TOKENS = 3300


def with_derived(events):
    """Return these events with the chunks and keyframes of a live run."""
    instruments = Instruments(events[0])
    return [events[0], *(each for event in events[1:] for each in (event, *instruments.feed(event)))]


def eventful(number=TOKENS):
    """A run with readings of the machine, marks, injections and a fresh context in it."""
    events = [HEADER]
    for token in tokens(number):
        if token.i % 20 == 7:
            events.append(Vitals(t=token.t))
        if token.i % 500 == 123:
            events.append(Marker(i=token.i, t=token.t, note=f"at {token.i}"))
        if token.i % 700 == 69:
            events.append(Perturbation(i=token.i, t=token.t, text="x", ids=[token.i], form="raw", source="key"))
            token = msgspec.structs.replace(token, source="injected", phase="prefill")
        if token.i == 1500:
            events.append(State(state="fresh_context", i=token.i, t=token.t))
        events.append(token)
    return with_derived([*events, State(state="finished", i=number, t=0.05 * number, why="length")])


@pytest.fixture(scope="module")
def events():
    return eventful()


@pytest.fixture(scope="module")
def path(events, tmp_path_factory):
    path = tmp_path_factory.mktemp("seek") / "session.moe.jsonl"
    path.write_bytes(b"".join(to_json(event) + b"\n" for event in events))
    return path


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def source(path, clock):
    source = ReplaySource(path, clock)
    source.start()
    yield source
    source.close()


def drain_until(source, is_over):
    """Return the items of a source until a condition holds after a drain; fail after `LONG` seconds."""
    limit, items = time.monotonic() + LONG, []
    while True:
        more = source.drain()
        items += more
        if is_over(more):
            return items
        assert time.monotonic() < limit, f"never over; {len(items)} items came"


def drained(source):
    """Return the items after a seek in a paused source."""
    return drain_until(source, lambda more: not more)


def jump(source, *arguments):
    source.pause()
    source.seek(Jump(*arguments) if len(arguments) > 1 else arguments[0])
    return drained(source)


def rest(source):
    """Everything from here to the end."""
    source.set_pace(0)
    source.resume()
    return drain_until(source, lambda _: source.ended)


def cut(events, i):
    """Return the position in the events of token `i`, or of the first token after it."""
    return next((at for at, event in enumerate(events) if isinstance(event, Token) and event.i >= i), len(events))


def of(kinds, items):
    return [item for item in items if isinstance(item, kinds)]


def marks_and_chunks(items):
    return of((Chunk, Marker, Perturbation, State), items)


class TestWhatIsShown:
    @pytest.mark.parametrize("i", [0, 1, 255, 699, 700, 701, 955, 956, 957, 2000, 2999, 3299, 3300])
    def test_edges(self, events, source, i):
        self.check(events, source, i)

    def test_random_positions(self, events, source):
        for i in random.Random(7).sample(range(TOKENS), 20):
            self.check(events, source, i)

    def check(self, events, source, i):
        at = cut(events, i)
        items = jump(source, "token", i)
        assert items[0] == HEADER
        assert marks_and_chunks(items) == marks_and_chunks(events[:at])
        frames, window = of(Keyframe, items), of(Token, items)
        assert window == of(Token, events[:at])[-len(window) or at :]
        assert len(window) >= min(256, i)
        assert of(Vitals, items) == of(Vitals, events[:at])
        if len(window) < i:
            assert frames[0] in events
            assert items[items.index(frames[0]) :] == events[events.index(frames[0]) : at]
            assert window[0].i == frames[0].i
        assert source.timeline.position == i

    def test_what_follows_is_what_an_uninterrupted_replay_gives(self, events, source):
        for i in random.Random(11).sample(range(TOKENS), 6):
            jump(source, "token", i)
            assert rest(source) == events[cut(events, i) :]
        assert source.warnings == []

    def test_readings_of_the_machine_are_the_last_240(self, tmp_path, clock):
        few = [event for t in tokens(1400) for event in (t, Vitals(t=t.t))]
        path = tmp_path / "session.moe.jsonl"
        path.write_bytes(b"".join(to_json(event) + b"\n" for event in with_derived([HEADER, *few])))
        source = ReplaySource(path, clock)
        source.start()
        readings = of(Vitals, jump(source, "token", 1300))
        assert [round(each.t / 0.05) for each in readings] == list(range(700 - 241, 1300))

    def test_file_without_chunks_is_computed_from_its_beginning(self, events, tmp_path, clock):
        path = tmp_path / "session.moe.jsonl"
        bare = [event for event in events if not isinstance(event, Chunk)]
        path.write_bytes(b"".join(to_json(event) + b"\n" for event in bare))
        source = ReplaySource(path, clock)
        source.start()
        assert jump(source, "token", 2500) == events[: cut(events, 2500)]

    def test_file_of_another_writer(self, events, tmp_path, clock):
        def other(event):
            return b"{ " + to_json(event)[1:].replace(b'"event":"', b'"event" : "', 1)

        path = tmp_path / "session.moe.jsonl"
        path.write_bytes(b"\n\r\n".join(other(event) for event in events[:4000]) + b"\n")
        source = ReplaySource(path, clock)
        source.start()
        items = jump(source, "token", 2500)
        assert marks_and_chunks(items) == marks_and_chunks(events[: cut(events, 2500)])
        assert of(Token, items)[-1].i == 2499
        assert len(of(Token, items)) < 1300

    def test_chunk_that_the_recording_did_not_get_to_is_shown_at_its_end(self, tmp_path, clock):
        whole = with_derived([HEADER, *tokens(1600)])
        assert isinstance(whole[-1], Chunk)
        path = tmp_path / "session.moe.jsonl"
        path.write_bytes(b"".join(to_json(event) + b"\n" for event in whole[:-1]))
        source = ReplaySource(path, clock)
        source.start()
        assert jump(source, END)[-1] == whole[-1]

    def test_keyframe_that_is_wrong_is_told_once(self, events, tmp_path, clock):
        at = next(at for at, event in enumerate(events) if isinstance(event, Keyframe))
        forged = msgspec.structs.replace(events[at], residual=0.25)
        path = tmp_path / "session.moe.jsonl"
        path.write_bytes(b"".join(to_json(event) + b"\n" for event in [*events[:at], forged, *events[at + 1 :]]))
        source = ReplaySource(path, clock)
        source.start()
        for _ in range(2):
            jump(source, "token", 900)
        (warning,) = source.warnings
        assert "chunks or keyframes that differ from the tokens: 1;" in warning

    def test_recording_that_begins_in_the_middle(self, events, tmp_path, clock):
        first = next(at for at, event in enumerate(events) if isinstance(event, Keyframe))
        path = tmp_path / "session.moe.jsonl"
        path.write_bytes(b"".join(to_json(event) + b"\n" for event in [HEADER, *events[first:]]))
        source = ReplaySource(path, clock)
        source.start()
        assert jump(source, HOME) == [HEADER, events[first]]
        jump(source, "token", 2600)
        assert rest(source) == events[cut(events, 2600) :]
        assert source.timeline.first == events[first].i


class TestWhere:
    @pytest.mark.parametrize(
        ("start", "arguments", "position"),
        [
            (100, ("token", 7), 7),
            (100, ("token", -5), 0),
            (100, ("token", 1e9), TOKENS),
            (100, ("token", -1, True), 99),
            (100, ("token", 1, True), 101),
            (100, ("token", -1000, True), 0),
            (100, ("token", 1000, True), 1100),
            (100, ("token", float("inf"), True), TOKENS),
            (100, ("time", 10.0), 201),
            (100, ("time", 10.01), 201),
            (100, ("time", 1e9), TOKENS),
            (100, ("time", 5.0, True), 201),
            (100, ("time", -2.0, True), 61),
            (100, ("mark", 1), 623),
            (100, ("mark", 1, True), 123),
            (123, ("mark", 1, True), 623),
            (123, ("mark", -1, True), 0),
            (124, ("mark", -1, True), 123),
            (1000, ("mark", -2, True), 123),
            (1000, ("mark", 50, True), TOKENS),
            (1000, ("perturbation", 1, True), 1469),
            (1000, ("perturbation", -1, True), 769),
            (0, ("chunk", 0), 4),
            (0, ("chunk", 5), 24),
            (10, ("chunk", 1, True), 12),
            (12, ("chunk", 1, True), 16),
            (12, ("chunk", -1, True), 8),
            (13, ("chunk", -1, True), 12),
            (13, ("chunk", 1e9), TOKENS),
        ],
    )
    def test_jump(self, source, start, arguments, position):
        jump(source, "token", start)
        jump(source, *arguments)
        assert source.timeline.position == position

    def test_previous_chunk_from_the_end(self, source, events):
        chunks = of(Chunk, events)
        jump(source, END)
        items = jump(source, "chunk", -1, True)
        assert of(Chunk, items)[-1] in chunks[-2:]
        assert source.timeline.position < TOKENS

    def test_at_a_mark_one_has_just_seen_it(self, source):
        assert jump(source, "mark", 2)[-1] == Marker(i=1123, t=make_token(1123).t, note="at 1123")

    def test_at_an_injection_its_tokens_are_to_come(self, source):
        assert of(Perturbation, jump(source, "perturbation", 0))[-1].i == 69
        assert source.timeline.position == 69

    def test_jumps_before_the_next_drain_add_up(self, source):
        source.pause()
        for _ in range(3):
            source.seek(Jump("chunk", 10, True))
            source.seek(Jump("token", -1, True))
        drained(source)
        assert (
            source.timeline.position == 109
        )  # chunks end after 40 tokens, after 74, the injection at 69 having cut one, and after 110

    def test_index_gaps(self, tmp_path, clock):
        path = tmp_path / "session.moe.jsonl"
        few = [make_token(i) for i in (0, 1, 2, 10, 11, 30)]
        path.write_bytes(b"".join(to_json(event) + b"\n" for event in [HEADER, *few]))
        source = ReplaySource(path, clock)
        source.start()
        for arguments, position in [
            (("token", 5), 3),
            (("token", 1, True), 11),
            (("token", 1, True), 12),
            (("token", -1, True), 11),
            (("token", -1, True), 3),
        ]:
            jump(source, *arguments)
            assert source.timeline.position == position


class TestStep:
    def test_forward_goes_on_with_the_stream(self, source, events):
        shown = jump(source, "token", 1006)
        for _ in range(30):
            shown += jump(source, "token", 1, True)
        assert len(of(Header, shown)) == 1
        assert marks_and_chunks(shown) == marks_and_chunks(events[: cut(events, 1036)])
        assert of(Token, shown)[-1].i == 1035
        assert of(Keyframe, shown) == of(Keyframe, events[: cut(events, 1036)])

    def test_forward_while_held_shows_one_token_and_what_follows_it(self, source):
        jump(source, "token", 3)
        assert [type(item) for item in jump(source, "token", 1, True)] == [Token, Chunk]
        assert drained(source) == []

    def test_back_begins_anew(self, source, events):
        jump(source, "token", 50)
        assert jump(source, "token", -1, True) == events[: cut(events, 49)]

    def test_playing_goes_on_from_a_step(self, source, clock):
        jump(source, "token", 50)
        jump(source, "token", 1, True)
        clock.advance(60.0)
        source.resume()
        clock.advance(0.0501)
        assert [token.i for token in of(Token, source.drain())] == [51]


class TestClock:
    def test_playing_goes_on_from_there(self, source, clock):
        drained(source)
        source.seek(Jump("token", 2000))
        drained(source)
        clock.advance(0.1001)
        assert [token.i for token in of(Token, source.drain())] == [2000, 2001]

    def test_end_can_be_left_again(self, source, events):
        jump(source, END)
        assert source.ended
        assert source.abilities == {"seek"}
        assert jump(source, HOME) == events[:1]
        assert not source.ended
        assert rest(source) == events[1:]

    def test_nothing_can_be_sought_after_closing(self, source):
        source.close()
        source.seek(HOME)
        assert source.drain() == []
        assert source.abilities == frozenset()


class TestTimeline:
    def test_extent(self, source, events):
        timeline = source.timeline
        assert (timeline.first, timeline.tokens, timeline.position) == (0, TOKENS, 0)
        assert timeline.seconds == make_token(TOKENS - 1).t
        assert timeline.chunks == len(of(Chunk, events))
        assert list(timeline.marks) == of(Marker, events)
        assert list(timeline.perturbations) == of(Perturbation, events)

    def test_before_it_is_opened(self, path):
        assert ReplaySource(path).timeline is None

    def test_without_tokens(self, tmp_path):
        path = tmp_path / "session.moe.jsonl"
        path.write_bytes(to_json(HEADER) + b"\n")
        source = ReplaySource(path)
        source.start()
        assert source.timeline is None


class TickingClock(ManualClock):
    """Clock that advances with every reading."""

    def __call__(self):
        self.advance(0.01)
        return self.now


class TestBeforeAllLinesAreFound:
    @pytest.fixture
    def source(self, path, monkeypatch):
        monkeypatch.setattr("moe_watch.sessions.reading.index.BLOCK", 10_000)
        source = ReplaySource(path, TickingClock())
        source.start()
        assert source._file.index.behind
        source.pause()
        yield source
        source.close()

    def arrive(self, source, jump):
        """Return the items after a seek, which may have to wait until its target is indexed."""
        source.seek(jump)
        return drain_until(source, lambda _: not (source._player.seeking or source._player.landing))

    def test_the_whole_extent_is_known(self, source, path):
        assert (source.timeline.tokens, source.timeline.seconds) == (TOKENS, make_token(TOKENS - 1).t)
        assert source.origin.bytes == path.stat().st_size

    @pytest.mark.parametrize(
        "target", [Jump("token", 2500), Jump("time", 125.0), Jump("chunk", 600), Jump("mark", 4), END, HOME]
    )
    def test_a_jump_waits_until_its_place_is_found(self, source, path, target):
        known = ReplaySource(path, ManualClock())
        known.start()
        known.pause()
        known.seek(target)
        assert self.arrive(source, target) == drained(known)
        assert source.timeline.position == known.timeline.position

    def test_jumps_are_made_in_the_order_in_which_they_were_asked_for(self, source):
        source.seek(Jump("token", 3000))
        source.seek(Jump("token", -10, relative=True))
        self.arrive(source, Jump("chunk", -1, relative=True))
        assert source.timeline.position < 2990
        assert 2990 - source.timeline.position <= 8

    def test_it_plays_meanwhile(self, source, events):
        assert rest(source) == events
        assert not source._file.index.behind
        assert source.timeline.marks == of(Marker, events)


class TestDamage:
    def test_what_is_not_read_is_not_judged(self, events, path, tmp_path, clock):
        lines = path.read_bytes().splitlines()
        at = cut(events, 500)
        damaged = tmp_path / "session.moe.jsonl"
        damaged.write_bytes(b"\n".join([*lines[:at], b"garbage", lines[at][:90], *lines[at:]]) + b"\n")
        source = ReplaySource(damaged, clock)
        source.start()
        assert of(Token, jump(source, "token", 2500))[-1].i == 2499
        items = jump(source, "token", 600)
        assert of(Token, items)[-1].i == 499
        assert f"line {at + 1}: not JSON" in items[-1].message
        assert source.ended
        assert of(Token, jump(source, "token", 3000))[-1].i == 2999

    def test_unknown_events_do_no_harm(self, events, tmp_path, clock):
        header = msgspec.structs.replace(HEADER, schema_minor=99)
        later = Unknown("later", b'{"event":"later"}')
        path = tmp_path / "session.moe.jsonl"
        path.write_bytes(b"".join(to_json(event) + b"\n" for event in [header, later, *events[1:], later]))
        source = ReplaySource(path, clock)
        source.start()
        jump(source, "token", 1500)
        assert rest(source) == [*events[cut(events, 1500) :], later]
