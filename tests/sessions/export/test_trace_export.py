"""Routing in the forms of other programs, and back again."""

from __future__ import annotations

import os

import msgspec
import numpy as np
import pytest

import moe_watch
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Keyframe, Token, to_json
from moe_watch.routing.pressure.instruments import Instruments
from moe_watch.sessions.export.trace_export import TRACE_FORMS, TracePlan, export_trace
from moe_watch.sessions.imports.importer import import_trace, read_trace
from moe_watch.sessions.imports.traces import ImportOptions
from tests.sessions.kit import EXPERTS, HEADER, K, make_token
from tests.sessions.made_sessions import write_session

MODEL = ImportOptions(experts=EXPERTS, experts_per_token=K)
COUNTED = ("layer-expert-count", "coli-usage")


@pytest.fixture
def session(tmp_path):
    return write_session(tmp_path / "made.moe.jsonl", 30)


def counts_of(path):
    session = moe_watch.open(path)
    return {phase: session.counts(phase) for phase in ("prefill", "decode")}


@pytest.mark.parametrize("form", TRACE_FORMS)
def test_an_export_is_imported_with_the_same_counts(session, tmp_path, form):
    found = export_trace(session, TracePlan(form, tmp_path / "out"))
    assert found.output == tmp_path / "out"
    trace = read_trace(found.output, MODEL)
    both = sum(counts_of(session).values())
    np.testing.assert_array_equal(trace.counts, both)
    assert trace.shape.layers == list(HEADER.model.layers)
    again = import_trace(found.output, MODEL, folder=tmp_path / "sessions").path
    np.testing.assert_array_equal(moe_watch.open(again).counts("prefill"), both)


@pytest.mark.parametrize("form", TRACE_FORMS)
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_one_phase_alone(session, tmp_path, form, phase):
    expected = counts_of(session)[phase]
    assert expected.any()
    export_trace(session, TracePlan(form, tmp_path / "out", phase=phase))
    np.testing.assert_array_equal(read_trace(tmp_path / "out", MODEL).counts, expected)


def test_selections_are_in_the_order_of_evaluation(session, tmp_path):
    found = export_trace(session, TracePlan("layer-expert", tmp_path / "out"))
    lines = (tmp_path / "out").read_text().splitlines()
    experts = moe_watch.open(session).experts()
    flat = [
        (layer, int(e)) for token in experts for layer, row in zip(HEADER.model.layers, token, strict=True) for e in row
    ]
    assert lines == ["layer,expert", *(f"{layer},{expert}" for layer, expert in flat)]
    assert found.rows == {"layer-expert": len(flat)}


def test_colibri_s_file_has_its_first_line_and_no_writer(session, tmp_path):
    """colibri reads the sizes, takes counts that are there, and refuses files that another engine says it wrote."""
    export_trace(session, TracePlan("coli-usage", tmp_path / "out"))
    first, *rows = (tmp_path / "out").read_text().splitlines()
    assert first == f"-1 {max(HEADER.model.layers) + 1} {EXPERTS}"
    assert all(len(row.split()) == 3 and row.split()[2] != "0" for row in rows)


@pytest.mark.parametrize("form", COUNTED)
def test_imported_counts_go_out_again(session, tmp_path, form):
    export_trace(session, TracePlan("layer-expert-count", tmp_path / "first"))
    imported = import_trace(tmp_path / "first", MODEL, folder=tmp_path / "sessions").path
    export_trace(imported, TracePlan(form, tmp_path / "second"))
    np.testing.assert_array_equal(read_trace(tmp_path / "second", MODEL).counts, sum(counts_of(session).values()))
    with pytest.raises(
        UserError, match="it has counts of selections but no single selections: use --to layer-expert-count"
    ):
        export_trace(imported, TracePlan("layer-expert", tmp_path / "third"))
    assert not (tmp_path / "third").exists()


@pytest.mark.parametrize("form", COUNTED)
def test_what_was_selected_before_the_recording_began_is_counted(tmp_path, form):
    """Its tokens are in no file, but a keyframe counts them."""
    instruments, events = Instruments(HEADER), [HEADER]
    tokens = [make_token(i) for i in range(40)]
    for token in tokens:
        if token.i == 20:
            events.append(instruments.keyframe())
        derived = instruments.feed(token)
        events += [token, *derived] if token.i >= 20 else []
    assert isinstance(events[1], Keyframe)
    path = tmp_path / "late.moe.jsonl"
    path.write_bytes(b"".join(to_json(event) + b"\n" for event in events))
    export_trace(path, TracePlan(form, tmp_path / "out"))
    assert read_trace(tmp_path / "out", MODEL).rows.tolist() == [40] * len(HEADER.model.layers)


def test_layers_that_were_not_observed_have_no_selections(tmp_path):
    token = make_token(0)
    missing = msgspec.structs.replace(token, i=1, experts=[None] * K + token.experts[K:])
    assert isinstance(missing, Token)
    path = tmp_path / "part.moe.jsonl"
    path.write_bytes(b"".join(to_json(event) + b"\n" for event in (HEADER, token, missing)))
    export_trace(path, TracePlan("layer-expert", tmp_path / "out"))
    rows = (tmp_path / "out").read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == [*"112244", *"2244"]


def test_more_than_colibri_counts_is_refused(session, tmp_path, monkeypatch):
    monkeypatch.setattr("moe_watch.sessions.export.trace_export.MOST_COLIBRI_COUNT", 3)
    with pytest.raises(UserError, match="beyond colibri's 32 bits: use --to layer-expert-count"):
        export_trace(session, TracePlan("coli-usage", tmp_path / "out"))
    assert [each.name for each in tmp_path.iterdir()] == [session.name]


def test_a_file_is_not_written_over_unasked(session, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        export_trace(session, TracePlan("coli-usage", tmp_path / "out"))
    assert (tmp_path / "out").read_text() == "mine"
    export_trace(session, TracePlan("coli-usage", tmp_path / "out", force=True))
    assert (tmp_path / "out").read_text().startswith("-1 ")


def test_forcing_replaces_no_fifo_or_device(session, tmp_path):
    os.mkfifo(tmp_path / "out")
    with pytest.raises(UserError, match=r"out: cannot be written \(not a regular file\)"):
        export_trace(session, TracePlan("coli-usage", tmp_path / "out", force=True))
    assert (tmp_path / "out").is_fifo()
