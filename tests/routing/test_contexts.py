"""A fresh context is a separate series: no measurement depends on earlier contexts."""

from __future__ import annotations

from math import log2

import msgspec
import pytest
from msgspec import to_builtins

from moe_watch.routing.contexts import ContextNumbers
from moe_watch.routing.events import Chunk, Keyframe, State
from moe_watch.routing.half_life.fit import fit_half_life
from moe_watch.routing.half_life.series import MidSeries
from moe_watch.routing.pressure.formulas import MODES
from moe_watch.routing.pressure.instruments import Instruments
from moe_watch.routing.summary import Summary
from tests.routing.planted import constant, exponential, plant
from tests.sessions.kit import HEADER, make_token

SIZE = HEADER.chunk_size
PROMPT = 3


def context(first, chunks, *, extra=0):
    """Return a prompt and a number of chunks of generated tokens, and `extra` tokens that do not fill a chunk."""
    made = [make_token(first + at, "prompt" if at < PROMPT else "generated") for at in range(PROMPT + SIZE * chunks)]
    return [*made, *(make_token(first + len(made) + at) for at in range(extra))]


def fresh(i):
    return State(state="fresh_context", i=i, t=0.05 * i, why="context")


def two_contexts(first=14, second=13, *, extra=2):
    one = context(0, first, extra=extra)
    return [*one, fresh(len(one)), *context(len(one), second)]


def derive(events, mode="measured-v2"):
    """Return all events of a run and the events derived from them, without the header."""
    instruments, found = Instruments(HEADER, mode), []
    for event in events:
        found += [event, *instruments.feed(event)]
    return found


def chunks_of(events):
    return [event for event in events if isinstance(event, Chunk)]


def series_of(events, mode="measured-v2"):
    series = MidSeries(mode)
    for event in events:
        series.feed(event)
    return series


def with_mid(events, *curves):
    """Return the same events with these values as P_mid of measured chunks, by context."""
    values = [iter(curve) for curve in curves]

    def changed(event):
        if not isinstance(event, Chunk) or event.warm_up or event.partial:
            return event
        mid = float(next(values[event.context]))
        return msgspec.structs.replace(event, pressures=msgspec.structs.replace(event.pressures, mid=mid))

    return [changed(event) for event in events]


class TestMeasuredV2:
    def test_a_context_is_measured_as_a_run_of_its_own(self):
        events = two_contexts()
        begins = next(event.i for event in events if isinstance(event, State))
        alone = chunks_of(
            derive(event for event in events if getattr(event, "i", 0) >= begins and event != fresh(begins))
        )
        second = [chunk for chunk in chunks_of(derive(events)) if chunk.context == 1]
        assert len(second) == len(alone) == 13
        for ours, theirs in zip(second, alone, strict=True):
            same = {"first": theirs.first, "last": theirs.last, "index": ours.index, "context": 1}
            assert ours == msgspec.structs.replace(theirs, **same)

    def test_chunks_are_numbered_on_and_the_warm_up_begins_again(self):
        chunks = chunks_of(derive(two_contexts()))
        assert [chunk.index for chunk in chunks] == list(range(28))
        assert [chunk.context for chunk in chunks] == [0] * 15 + [1] * 13
        assert [chunk.warm_up for chunk in chunks] == [True] * 10 + [False] * 5 + [True] * 10 + [False] * 3
        assert [chunk.index for chunk in chunks if chunk.partial] == [14]

    def test_coherence_does_not_change_from_one_context_to_the_next(self):
        first = {chunk.context: chunk for chunk in reversed(chunks_of(derive(two_contexts())))}
        assert [first[number].signals.delta_coherence for number in (0, 1)] == [0.0, 0.0]


class TestMeasuredV1:
    def test_averages_and_warm_up_are_those_of_the_run(self):
        """Recordings of this mode have this rule; they are verified and replayed by it."""
        chunks = chunks_of(derive(two_contexts(), "measured-v1"))
        assert [chunk.warm_up for chunk in chunks] == [True] * 10 + [False] * 18
        assert {chunk.context for chunk in chunks} == {None}
        assert chunks[15].signals.delta_coherence != 0.0
        newer = chunks_of(derive(two_contexts()))
        same = [
            ours == msgspec.structs.replace(theirs, context=None) for ours, theirs in zip(chunks, newer, strict=True)
        ]
        assert same == [True] * 15 + [False] * 13

    def test_a_context_is_a_series_of_its_own_nevertheless(self):
        series = series_of(derive(two_contexts(), "measured-v1"), "measured-v1")
        assert [(each.number, len(each.mid)) for each in series.contexts] == [(0, 4), (1, 13)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("at", [5, 60, 66, 90])
def test_a_keyframe_in_any_context_leads_to_the_same_chunks(mode, at):
    events = two_contexts()
    whole, resumed = Instruments(HEADER, mode), Instruments(HEADER, mode)
    for event in events[:at]:
        whole.feed(event)
    resumed.feed(whole.keyframe())
    for event in events[at:]:
        expected, found = whole.feed(event), resumed.feed(event)
        assert found == expected
    assert resumed.keyframe() == whole.keyframe()


class TestSeries:
    def test_every_context_is_fitted_on_its_own(self):
        """Three decays in a row, which are stable as one series."""
        curve = exponential(0.6, 0.1, 6).curve(chunks=25)
        events = two_contexts(35, 35, extra=0)
        third = sum(not isinstance(event, State) for event in events)
        events += [fresh(third), *context(third, 35)]
        series = series_of(with_mid(derive(events), curve, curve, curve))
        assert [each.fit().verdict for each in series.contexts] == ["exponential"] * 3
        assert [each.fit().half_life for each in series.contexts] == pytest.approx([6 * log2(2.5)] * 3, rel=1e-3)
        assert fit_half_life([*curve, *curve, *curve]).verdict == "stable"

    def test_the_newest_context_that_is_long_enough_is_judged(self):
        events = derive(two_contexts(20, 13, extra=0))
        series = series_of(events)
        assert (series.judged.number, series.current.number) == (0, 1)
        assert series.positions == list(range(10, 20))
        assert "3 measured chunks, and a fit needs at least 5" in series.current.unavailable
        series = series_of(derive(two_contexts(20, 16, extra=0)))
        assert series.judged is series.current
        assert series.positions == list(range(30, 36))

    def test_a_recording_that_begins_in_a_later_context_knows_which(self):
        events = two_contexts(12, 14, extra=0)
        instruments = Instruments(HEADER)
        at = len(events) - 8
        for event in events[:at]:
            instruments.feed(event)
        frame = instruments.keyframe()
        assert (frame.context, frame.context_chunks, frame.complete_chunks) == (1, 12, 24)
        series = series_of([frame, *(each for event in events[at:] for each in [event, *instruments.feed(event)])])
        assert [each.number for each in series.contexts] == [1]
        assert "the recording begins at chunk 24, after the first measured one" in series.unavailable

    def test_a_recording_that_begins_with_a_context_s_warm_up_knows_its_start(self):
        events = two_contexts(12, 16, extra=0)
        instruments = Instruments(HEADER)
        for event in (early := events[: 12 * SIZE + PROMPT + 20]):
            instruments.feed(event)
        late = events[len(early) :]
        series = series_of(
            [instruments.keyframe(), *(each for event in late for each in [event, *instruments.feed(event)])]
        )
        assert series.judged.has_start
        assert len(series.mid) == 6

    def test_a_fresh_context_that_is_in_no_file_is_known_from_what_follows(self):
        events = [event for event in derive(two_contexts(16, 16, extra=0)) if not isinstance(event, State)]
        series = series_of(events)
        assert [(each.number, len(each.mid)) for each in series.contexts] == [(0, 6), (1, 6)]


def test_the_chunk_that_a_fresh_context_cuts_belongs_to_the_one_before():
    numbers, found = ContextNumbers(), []
    for event in derive(two_contexts(), "measured-v1"):
        numbers.feed(event)
        if isinstance(event, Chunk):
            found.append(numbers.named(event).context)
    assert found == [0] * 15 + [1] * 13


class TestSummary:
    def summary(self, events):
        found = Summary()
        for event in [HEADER, *events]:
            found.feed(event)
        return to_builtins(found.result())["pressure"]

    def test_names_the_context_it_is_about_and_lists_them_all(self):
        flat = next(iter(plant(constant(0.5), 0.0, range(1), chunks=30))).mid
        events = with_mid(derive(two_contexts(30, 13, extra=0)), exponential(0.6, 0.1, 6).curve(), flat)
        found = self.summary(events)
        assert (found["context"], found["fit"]["verdict"], found["initial"]) == (0, "exponential", pytest.approx(0.6))
        assert [(each["context"], each["measured"], each["verdict"]) for each in found["contexts"]] == [
            (0, 20, "exponential"),
            (1, 3, None),
        ]
        assert found["contexts"][1]["fit_unavailable"] == "3 measured chunks, and a fit needs at least 5: 2 more"
        assert {chunk["context"] for chunk in found["chunks"]} == {0, 1}

    @pytest.mark.parametrize(("second", "missing"), [(0, 10), (4, 6), (10, 0), (12, 0)])
    def test_counts_the_warm_up_of_the_present_context(self, second, missing):
        assert self.summary(derive(two_contexts(14, second)))["warm_up_missing"] == missing

    def test_an_older_recording_has_one_warm_up(self):
        found = Summary()
        for event in [
            msgspec.structs.replace(HEADER, pressure="measured-v1"),
            *derive(two_contexts(14, 2), "measured-v1"),
        ]:
            found.feed(event)
        assert to_builtins(found.result())["pressure"]["warm_up_missing"] == 0


def test_keyframes_of_older_modes_do_not_name_a_context():
    frames = {mode: Instruments(HEADER, mode).keyframe() for mode in MODES}
    assert {mode: (frame.context, frame.context_chunks) for mode, frame in frames.items()} == {
        "measured-v2": (0, 0),
        "measured-v1": (None, None),
        "chronomoe-v1": (None, None),
    }
    assert all(isinstance(frame, Keyframe) for frame in frames.values())
