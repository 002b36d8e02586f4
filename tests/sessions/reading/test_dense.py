"""Sessions of dense models: validation of the header, reading, verifying, comparing, exporting, notebooks."""

from __future__ import annotations

import json
from math import log
from pathlib import Path

import msgspec
import numpy as np
import pytest

import moe_watch
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Chunk, Keyframe, Perturbation, State, Temperature, Token, Vitals, to_json
from moe_watch.routing.header import NO_GATE
from moe_watch.sessions.comparing.machine import MachineMeter
from moe_watch.sessions.comparing.pairs import compare
from moe_watch.sessions.comparing.result import comparison_result
from moe_watch.sessions.export.exporter import ExportPlan, export_session
from moe_watch.sessions.export.trace_export import TRACE_FORMS, TracePlan, export_trace
from moe_watch.sessions.fitting.file_fit import fit_file
from moe_watch.sessions.library.listing import list_sessions
from moe_watch.sessions.reading.reader import read_session
from moe_watch.sessions.replaying.source import ReplaySource
from moe_watch.sessions.verifying.file import verify
from tests.dense_runs import as_dense, dense_header
from tests.sessions.kit import HEADER, ManualClock
from tests.sessions.replaying.test_seeking import jump
from tests.tui.events import main_run


def predicted(event):
    """A token whose prediction is of two tokens, of which it is the likelier one."""
    if not isinstance(event, Token) or event.top_margin is None:
        return event
    return msgspec.structs.replace(event, logprob=round(log((1 + event.top_margin) / 2), 4), choice_gap=0.0)


def injecting(event):
    """An injection with the ids of the tokens that follow it."""
    if not isinstance(event, Perturbation):
        return event
    return msgspec.structs.replace(event, ids=[token.id for token in TOKENS if token.source == "injected"])


TOKENS = [event for event in main_run(900) if isinstance(event, Token)]
MOE = [injecting(predicted(event)) for event in main_run(900)]
RUN = as_dense(MOE)
REASON = "a dense model has no router, and so no pressure"


def written(path: Path, events: list) -> Path:
    path.write_bytes(b"".join(to_json(event) + b"\n" for event in events))
    return path


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    return written(tmp_path / "dense.moe.jsonl", RUN)


@pytest.fixture
def moe(tmp_path: Path) -> Path:
    return written(tmp_path / "moe.moe.jsonl", MOE)


def refused(tmp_path: Path, **entries: object) -> str:
    header = msgspec.to_builtins(dense_header(HEADER))
    header["model"] |= entries
    path = tmp_path / "bad.moe.jsonl"
    path.write_text(json.dumps(header) + "\n")
    with pytest.raises(UserError) as caught:
        read_session(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- reading


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ({"experts": 0, "layers": [0, 1], "experts_per_token": 0}, "a model with MoE layers selects at least one"),
        ({"experts": 0, "layers": [0, 1], "experts_per_token": 2}, "2 of 0 experts per token is impossible"),
        ({"experts": 0, "experts_per_token": 1}, "1 of 0 experts per token is impossible"),
        ({"experts": 8, "experts_per_token": 2}, "8 experts without a layer"),
        ({"experts": 8, "experts_per_token": 0}, "8 experts without a layer"),
        ({"experts": -1}, "is impossible"),
    ],
    ids=["layers", "layers and k", "k", "experts", "experts without k", "negative"],
)
def test_no_experts_no_layers_and_no_selection_come_together(tmp_path: Path, entries: dict, says: str) -> None:
    assert says in refused(tmp_path, **entries)


def test_a_dense_session_is_read_as_it_was_written(dense: Path) -> None:
    assert list(read_session(dense)) == RUN
    assert b'"experts":[' not in dense.read_bytes().split(b"\n", 1)[1], "tokens have no list of experts"


def test_a_token_with_experts_is_refused(tmp_path: Path) -> None:
    token = msgspec.structs.replace(next(event for event in RUN if isinstance(event, Token)), experts=[1])
    with pytest.raises(UserError, match="line 2"):
        list(read_session(written(tmp_path / "bad.moe.jsonl", [RUN[0], token])))


def test_verify_finds_nothing(dense: Path) -> None:
    report = verify(dense)
    assert report.findings == []
    assert report.tokens == sum(isinstance(event, Token) for event in RUN)


@pytest.mark.parametrize(
    ("run", "changes", "says"),
    [
        (RUN, {"capture": ["experts", "logprob"]}, "capture has experts, but the model has no MoE layers"),
        (MOE, {"model": msgspec.structs.replace(MOE[0].model, gate=NO_GATE)}, "the gate is 'none', but the model has"),
    ],
    ids=["capture", "gate"],
)
def test_verify_reports_a_header_that_contradicts_itself(tmp_path: Path, run: list, changes: dict, says: str) -> None:
    head = msgspec.structs.replace(run[0], **changes)
    report = verify(written(tmp_path / "bad.moe.jsonl", [head, *run[1:]]))
    assert any(says in finding.text for finding in report.findings)


def test_chunks_with_pressure_are_found_to_be_wrong(tmp_path: Path) -> None:
    """Negative control: recomputing a dense run gives no pressure."""
    pressures = next(event.pressures for event in MOE if isinstance(event, Chunk))
    at = next(n for n, event in enumerate(RUN) if isinstance(event, Chunk))
    wrong = [*RUN[:at], msgspec.structs.replace(RUN[at], pressures=pressures), *RUN[at + 1 :]]
    assert verify(written(tmp_path / "bad.moe.jsonl", wrong)).findings


# -- replaying


def test_a_replay_can_seek(dense: Path) -> None:
    source = ReplaySource(dense, ManualClock(), speed=0)
    source.start()
    played = [item for _ in range(20) for item in source.drain()]
    tokens = [event for event in RUN if isinstance(event, Token)]
    assert [item for item in played if isinstance(item, Token)] == tokens
    for target in (850, 300, 720, 3):
        shown = jump(source, "token", target)
        assert source.timeline.position == target
        assert max(item.i for item in shown if isinstance(item, Token)) == target - 1
    source.close()


def test_the_listing_has_its_shape_and_the_reason(dense: Path) -> None:
    (entry,) = [each for each in list_sessions(dense.parent) if each.path == dense]
    facts = entry.facts
    assert (facts.layers, facts.experts, facts.experts_per_token) == ([], 0, 0)
    assert facts.half_life.words == REASON


def test_a_fit_says_why_there_is_none(dense: Path) -> None:
    with pytest.raises(UserError) as caught:
        fit_file(dense)
    assert str(caught.value) == f"{dense}: {REASON}: give a session of an MoE model"


# -- comparing


def test_two_dense_runs(dense: Path, tmp_path: Path) -> None:
    other = written(tmp_path / "other.moe.jsonl", RUN[:400])
    found = comparison_result(compare([dense, other]))
    (pair,) = found.pairs
    assert pair.agreement.tokens == sum(isinstance(event, Token) for event in RUN[:400])
    assert pair.agreement.routing is None
    assert pair.agreement.unavailable == "both models are dense: no MoE layers to compare"
    reason = "both models are dense: no MoE layers, so no routing and no pressure"
    assert {pair.half_life.unavailable, pair.trend.unavailable, pair.usage_distance.unavailable} == {reason}
    assert [source.pressure for source in found.sources] == [None, None]


def test_a_dense_run_and_an_moe_run_share_text_surprisal_speed_and_vitals(dense: Path, moe: Path) -> None:
    found = comparison_result(compare([moe, dense]))
    (pair,) = found.pairs
    tokens = [event for event in RUN if isinstance(event, Token)]
    assert pair.agreement.tokens == len(tokens)
    surprisals = [-token.logprob for token in tokens if token.logprob is not None]
    common = pair.agreement.surprisal
    assert common.first == common.second == pytest.approx(np.mean(surprisals))
    assert common.tokens == len(surprisals)
    assert pair.agreement.unavailable == "the second model is dense: no MoE layers to compare"
    assert "dense.moe.jsonl is of a dense model: no MoE layers" in pair.half_life.unavailable
    ours, theirs = found.sources[1], found.sources[0]
    assert (ours.surprisal, ours.tokens_per_second) == (theirs.surprisal, theirs.tokens_per_second)
    assert (ours.worker_memory, ours.celsius) == (theirs.worker_memory, theirs.celsius)
    assert ours.router_entropy is None
    assert theirs.router_entropy is not None


def test_surprisals_of_the_same_tokens_differ_where_the_models_do(dense: Path, tmp_path: Path) -> None:
    shifted = [
        msgspec.structs.replace(event, logprob=event.logprob - 0.5)
        if isinstance(event, Token) and event.logprob is not None
        else event
        for event in RUN
    ]
    (pair,) = comparison_result(compare([dense, written(tmp_path / "b.moe.jsonl", shifted)])).pairs
    assert pair.agreement.surprisal.second - pair.agreement.surprisal.first == pytest.approx(0.5)


def decode(i: int, t: float) -> Token:
    return Token(i=i, t=t, phase="decode", source="generated", id=i, text="x")


def test_speed_leaves_out_pauses_and_gaps() -> None:
    """Four tokens in 0.1 s steps, a pause of 5 s, two more tokens, a missing token: 3 + 1 steps of 0.1 s."""
    meter = MachineMeter()
    for event in (
        Token(i=0, t=0.0, phase="prefill", source="prompt", id=0, text="p"),
        *(decode(1 + n, 1 + n / 10) for n in range(4)),
        Vitals(t=1.2, worker_memory=300, temperatures=[Temperature(sensor="a", celsius=50.0)]),
        State(state="paused", i=5, t=1.3),
        State(state="resumed", i=5, t=6.3),
        decode(5, 6.4),
        decode(6, 6.5),
        decode(8, 9.0),
        Vitals(t=7.0, worker_memory=200, temperatures=[Temperature(sensor="b", celsius=70.5)]),
    ):
        meter.feed(event)
    machine = meter.result()
    assert machine.tokens_per_second == pytest.approx(10.0)
    assert (machine.worker_memory, machine.celsius) == (300, 70.5)


def test_nothing_recorded_is_absent() -> None:
    machine = MachineMeter().result()
    assert (machine.tokens_per_second, machine.worker_memory, machine.celsius) == (None, None, None)
    meter = MachineMeter()
    for i in range(3):
        meter.feed(decode(i, 0.0))  # imported tokens have no time
    assert meter.result().tokens_per_second is None


# -- exporting


@pytest.mark.parametrize("form", ["csv", "json", "npz", "parquet"])
def test_tables_without_routing(dense: Path, tmp_path: Path, form: str) -> None:
    pytest.importorskip("pyarrow" if form == "parquet" else "json")
    exported = export_session(dense, ExportPlan(form, tmp_path / "out", None, False, False))
    assert {"tokens", "chunks", "vitals"} <= exported.rows.keys()
    assert not exported.rows.keys() & {"routing", "usage", "probabilities"}
    assert exported.rows["tokens"] == sum(isinstance(event, Token) for event in RUN)


@pytest.mark.parametrize("table", ["routing", "usage", "probabilities"])
def test_a_table_of_routing_is_refused(dense: Path, tmp_path: Path, table: str) -> None:
    with pytest.raises(UserError, match=f"mistral-7b is dense: there is no table {table}: use --table tokens"):
        export_session(dense, ExportPlan("csv", tmp_path / "out.csv", table, False, False))
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize("form", TRACE_FORMS)
def test_a_trace_is_refused(dense: Path, tmp_path: Path, form: str) -> None:
    with pytest.raises(UserError, match="mistral-7b is dense: it has no routing to write: use --to csv or parquet"):
        export_trace(dense, TracePlan(form, tmp_path / "trace"))
    assert not (tmp_path / "trace").exists()


def test_a_recording_from_a_keyframe_is_exported(tmp_path: Path) -> None:
    at = next(n for n, event in enumerate(RUN) if isinstance(event, Keyframe))
    path = written(tmp_path / "late.moe.jsonl", [RUN[0], *RUN[at:]])
    rows = export_session(path, ExportPlan("csv", tmp_path / "out", None, False, False)).rows
    assert rows["tokens"] == sum(isinstance(event, Token) for event in RUN[at:])
    assert verify(path).findings == []


# -- notebooks


def test_arrays_have_no_layers(dense: Path) -> None:
    session = moe_watch.open(dense)
    tokens = sum(isinstance(event, Token) for event in RUN)
    assert "dense, no MoE layers" in repr(session)
    assert session.layers.shape == (0,)
    assert session.experts().shape[:2] == session.weights().shape[:2] == (tokens, 0)
    assert session.entropy().shape == session.margin().shape == session.churn().shape == (tokens, 0)
    assert session.counts().shape == session.usage().shape == session.counts("prefill", last=3).shape == (0, 0)
    assert np.nanmean(-session.tokens("decode")["logprob"]) == pytest.approx(
        np.mean([-event.logprob for event in RUN if isinstance(event, Token) and event.phase == "decode"])
    )
    pressures = session.pressures()
    assert np.isnan(pressures["mid"]).all()
    assert len(pressures["mid"]) == sum(isinstance(event, Chunk) for event in RUN)
    with pytest.raises(UserError, match=f"{REASON}: fit a session of an MoE model"):
        session.fit()
    with pytest.raises(UserError, match="no probabilities in this recording"):
        session.probabilities()
