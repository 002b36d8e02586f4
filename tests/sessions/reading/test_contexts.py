"""A recording with fresh contexts: every reader has one series per context."""

from __future__ import annotations

import json
from math import tanh
from pathlib import Path

import msgspec
import pytest
from msgspec import to_builtins

import moe_watch
from moe_watch.commands.app import run
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Chunk, Continues, State, to_json
from moe_watch.routing.pressure.instruments import Instruments
from moe_watch.routing.summary import Summary
from moe_watch.sessions.comparing.sources import read_source
from moe_watch.sessions.export.exporter import ExportPlan, export_session
from moe_watch.sessions.fitting.file_fit import fit_file
from moe_watch.sessions.library.scanning import scan
from moe_watch.sessions.reading.reader import read_session
from moe_watch.sessions.verifying.file import verify
from tests.routing.test_contexts import two_contexts
from tests.sessions.kit import HEADER, replayed

GOLDEN = Path(__file__).parents[2] / "golden" / "contexts.moe.jsonl"
FIRST, SECOND = 20, 16
"""Chunks of each context; ten of each are warm-up."""


def write(path, events, mode="measured-v2"):
    header = msgspec.structs.replace(HEADER, pressure=mode)
    instruments, lines = Instruments(header), [header]
    for event in events:
        lines += [event, *instruments.feed(event)]
    last = lines[-1].last if isinstance(lines[-1], Chunk) else events[-1].i
    lines.append(State(state="finished", i=last + 1, t=99.0, why="length"))
    path.write_bytes(b"".join(to_json(event) + b"\n" for event in lines))
    return path


@pytest.fixture(params=["measured-v2", "measured-v1"])
def mode(request):
    return request.param


@pytest.fixture
def session(tmp_path, mode):
    return write(tmp_path / "contexts.moe.jsonl", two_contexts(FIRST, SECOND, extra=0), mode)


def measured(mode):
    """Measured chunks of each context: an older recording has no warm-up in the second one."""
    return [FIRST - 10, SECOND - (10 if mode == "measured-v2" else 0)]


def test_is_whole_and_recomputes_to_what_it_holds(session):
    assert not {"chunks", "keyframes"} & {finding.check for finding in verify(session).findings}


def test_an_older_recording_computed_by_the_newer_rule_would_not(tmp_path):
    path = write(tmp_path / "older.moe.jsonl", two_contexts(FIRST, SECOND, extra=0), "measured-v1")
    path.write_bytes(path.read_bytes().replace(b'"pressure":"measured-v1"', b'"pressure":"measured-v2"', 1))
    assert "chunks" in {finding.check for finding in verify(path).findings}


class TestGolden:
    """Two contexts of the same tokens, as `measured-v2` was published: another rule would be another mode."""

    def test_recomputes_to_what_it_holds(self):
        assert not {"chunks", "keyframes", "unreadable lines"} & {each.check for each in verify(GOLDEN).findings}
        _, *events = read_session(GOLDEN)  # the header is written with the fields of this version
        assert b"".join(to_json(event) + b"\n" for event in events) in GOLDEN.read_bytes()

    def test_the_second_context_has_the_numbers_of_the_first(self):
        chunks = [event for event in read_session(GOLDEN) if isinstance(event, Chunk)]
        first, second = ([each for each in chunks if each.context == number] for number in (0, 1))
        assert [each.index for each in chunks] == list(range(22))
        assert [each.warm_up for each in first] == [True] * 10 + [False]
        for ours, theirs in zip(second, first, strict=True):
            assert (ours.signals, ours.pressures, ours.residual) == (theirs.signals, theirs.pressures, theirs.residual)
            assert ours.warm_up == theirs.warm_up

    def test_the_first_measured_chunk_by_hand(self):
        """P_mid from the recorded signals, by the formula of docs/measurements.md."""
        chunk = next(event for event in read_session(GOLDEN) if isinstance(event, Chunk) and not event.warm_up)
        signals = chunk.signals
        expected = (
            0.4 * tanh(1 - signals.top_margin)
            + 0.3 * tanh(signals.transition_prob)
            + 0.2 * tanh(1 / (1 + signals.proximity_meso))
            + 0.1 * tanh(signals.delta_coherence)
        )
        assert chunk.pressures.mid == pytest.approx(expected, abs=1e-12)


class TestFit:
    def test_the_newest_context_is_fitted_and_all_are_listed(self, session, mode):
        found = fit_file(session)
        assert (found.context, found.fit.first) == (1, FIRST + (10 if mode == "measured-v2" else 0))
        assert [len(each.mid) for each in found.contexts] == measured(mode)

    def test_a_context_may_be_chosen(self, session):
        found = fit_file(session, context=0)
        assert (found.context, found.fit.first, found.fit.chunks) == (0, 10, FIRST - 10)
        assert fit_file(session, context=0).fit.p_sequential == found.fit.p_sequential

    def test_a_context_that_is_not_there(self, session):
        with pytest.raises(UserError, match="no context 2: its contexts are 0, 1"):
            fit_file(session, context=2)

    def test_the_only_context_is_named(self, golden_path):
        with pytest.raises(UserError, match="no context 1: its only context is 0"):
            fit_file(golden_path, context=1)

    def test_a_context_that_is_too_short(self, tmp_path):
        path = write(tmp_path / "short.moe.jsonl", two_contexts(FIRST, 11, extra=0))
        assert fit_file(path).context == 0
        with pytest.raises(UserError, match="context 1: 1 measured chunk, and a fit needs at least 5"):
            fit_file(path, context=1)

    def test_a_bare_series_has_none(self, tmp_path):
        path = tmp_path / "series.json"
        path.write_text(json.dumps([0.5] * 10))
        with pytest.raises(UserError, match="a P_mid series has no contexts"):
            fit_file(path, context=0)

    def test_in_text_and_in_json(self, capsys, session, mode):
        assert run(["fit", str(session)]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith("context 1: ")
        for number, chunks in enumerate(measured(mode)):
            assert any(line.startswith(f"  context {number}: {chunks} measured chunks, ") for line in lines)
        assert run(["fit", str(session), "--context", "0", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["context"], found["first_chunk"]) == (0, 10)
        assert [each["context"] for each in found["contexts"]] == [0, 1]


def test_everyone_who_reads_it_says_the_same(capsys, session):
    found, summary = fit_file(session), Summary()
    for item in replayed(session):
        summary.feed(item)
    pressure = to_builtins(summary.result())["pressure"]
    words = pressure["fit"]["words"]
    assert (pressure["context"], pressure["fit"]["p_sequential"]) == (found.context, found.fit.p_sequential)
    assert moe_watch.open(session).fit().p_sequential == found.fit.p_sequential
    assert read_source(session).runs[0].fit.p_sequential == found.fit.p_sequential
    assert scan(session).facts.half_life.words == words
    assert run(["replay", "--headless", str(session)]) == 0
    assert words in capsys.readouterr().out


def test_compare_says_which_context_it_is_about(session):
    assert "pressure is compared over context 1 (of 0 to 1)" in read_source(session).warnings[-1]


def test_compare_says_which_contexts_a_later_part_has(tmp_path):
    events, instruments = two_contexts(FIRST, SECOND, extra=0), Instruments(HEADER)
    cut = next(at for at, event in enumerate(events) if isinstance(event, State)) - 9
    for event in events[:cut]:
        instruments.feed(event)
    frame = msgspec.structs.replace(instruments.keyframe(), context=3)
    written = [msgspec.structs.replace(HEADER, continues=Continues(file="run.moe.jsonl", i=frame.i)), frame]
    written += [each for event in events[cut:] for each in [event, *instruments.feed(event)]]
    path = tmp_path / "run.2.moe.jsonl"
    path.write_bytes(b"".join(to_json(event) + b"\n" for event in written))
    assert "pressure is compared over context 4 (of 3 to 4)" in read_source(path).warnings[-1]


def test_notebook_and_export_number_the_contexts(session, tmp_path):
    expected = [0] * FIRST + [1] * SECOND
    assert moe_watch.open(session).chunks()["context"].tolist() == expected
    assert moe_watch.open(session).pressures()["context"].tolist() == expected
    assert moe_watch.open(session).fit(context=0).first == 10
    export_session(session, ExportPlan(form="csv", output=tmp_path / "chunks.csv", table="chunks"))
    rows = [line.split(",") for line in (tmp_path / "chunks.csv").read_text().splitlines()]
    assert [int(row[rows[0].index("context")]) for row in rows[1:]] == expected


def test_a_continuation_that_begins_in_a_later_context_is_told_by_its_keyframe(tmp_path):
    """The lines with the fresh context are lost; the keyframe behind them names the context."""
    events = two_contexts(FIRST, SECOND, extra=0)
    begins = next(at for at, event in enumerate(events) if isinstance(event, State))
    lost, later = events[begins : begins + 9], events[begins + 9 :]
    first, instruments = tmp_path / "gap.moe.jsonl", Instruments(HEADER)
    written = [HEADER, *(each for event in events[:begins] for each in [event, *instruments.feed(event)])]
    first.write_bytes(b"".join(to_json(event) + b"\n" for event in written))
    for event in lost:
        instruments.feed(event)
    frame = instruments.keyframe()
    header = msgspec.structs.replace(HEADER, continues=Continues(file=first.name, i=frame.i))
    written = [header, frame, State(state="dropped", i=frame.i, t=9.0, count=len(lost))]
    written += [each for event in later for each in [event, *instruments.feed(event)]]
    (tmp_path / "gap.2.moe.jsonl").write_bytes(b"".join(to_json(event) + b"\n" for event in written))
    found = fit_file(first)
    assert [(each.number, len(each.mid)) for each in found.contexts] == [(0, FIRST - 10), (1, SECOND - 10)]
    assert found.fit.first == FIRST + 10
