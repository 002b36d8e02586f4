from __future__ import annotations

import subprocess
import sys

import msgspec
import numpy as np
import pytest

import moe_watch
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Chunk, Keyframe, Token, from_json, to_json
from moe_watch.routing.half_life.fit import fit_half_life
from moe_watch.sessions.fitting.file_fit import fit_file
from moe_watch.sessions.reading.compression import ZSTANDARD
from tests.sessions.kit import EXPERTS, HEADER, LAYERS, K, make_token
from tests.sessions.made_sessions import bare, ended, made_tokens, with_chunks, write_session


@pytest.fixture
def golden(golden_path):
    return moe_watch.open(golden_path)


@pytest.fixture
def made(tmp_path):
    return moe_watch.open(write_session(tmp_path / "made.moe.jsonl", 30))


def recorded(path, kind):
    return [event for line in path.read_bytes().splitlines() if isinstance(event := from_json(line), kind)]


def test_open_takes_text_and_says_what_it_opened(golden_path):
    session = moe_watch.open(str(golden_path))
    assert session.header.model.name == "golden"
    assert "2 layers × 4 experts, top-2" in repr(session)
    assert len(session) == 9
    assert session.layers.tolist() == [1, 2]
    assert session.torn == ""


def test_tokens_are_as_recorded(golden, golden_path):
    tokens = golden.tokens()
    events = recorded(golden_path, Token)
    assert tokens["text"].tolist() == [token.text for token in events]
    assert tokens["id"].tolist() == [token.id for token in events]
    assert tokens["phase"].tolist() == [token.phase for token in events]
    assert tokens["source"].tolist() == [token.source for token in events]
    np.testing.assert_array_equal(tokens["logprob"], [np.nan if t.logprob is None else t.logprob for t in events])
    assert golden.tokens("decode")["text"].tolist() == ["(", "x", ")", ":", "\n", "é"]


def test_routing_is_in_natural_units_and_absent_where_it_was_not_computed(golden):
    assert golden.experts()[0].tolist() == [[0, 1], [-1, -1]]
    weights = golden.weights()
    assert weights.shape == (9, 2, 2)
    np.testing.assert_allclose(weights[0], [[0.6, 0.4], [np.nan, np.nan]], rtol=1e-6)
    np.testing.assert_array_equal(golden.entropy()[:2], [[0.5, np.nan], [0.4, 0.8]])
    np.testing.assert_array_equal(golden.margin("decode")[0], [0.6, 0.8])


def test_churn_is_one_minus_the_overlap_of_successive_sets(golden):
    churn = golden.churn()
    assert np.isnan(churn[0]).all()
    assert churn[1, 0] == pytest.approx(1 - 1 / 3)  # {0,1} and {2,1}
    assert np.isnan(churn[1, 1])  # the layer was not observed at the token before


def test_usage_is_a_share_of_selections_by_phase_and_window(made, tmp_path):
    experts = [np.array(token.experts).reshape(LAYERS, K) for token in made_tokens(30)]
    for phase, rows in (("prefill", experts[:2]), ("decode", experts[2:])):
        counts = np.array([[sum(e in row[layer] for row in rows) for e in range(EXPERTS)] for layer in range(LAYERS)])
        np.testing.assert_array_equal(made.counts(phase), counts)
        np.testing.assert_allclose(made.usage(phase), counts / (len(rows) * K))
    np.testing.assert_array_equal(made.counts(last=1)[0], np.isin(np.arange(EXPERTS), experts[-1][0]))
    np.testing.assert_allclose(made.usage(last=5).sum(-1), 1)


def test_usage_of_a_recording_that_begins_in_a_run_counts_what_came_before(tmp_path):
    events = list(with_chunks(HEADER, [make_token(i) for i in range(2100)]))
    frame = next(at for at, event in enumerate(events) if isinstance(event, Keyframe))
    path = tmp_path / "part.moe.jsonl"
    path.write_bytes(b"\n".join(map(to_json, [HEADER, *events[frame:], ended(2100)])) + b"\n")
    part, whole = moe_watch.open(path), moe_watch.open(write_session(tmp_path / "whole.moe.jsonl", events=events[1:]))
    np.testing.assert_array_equal(part.counts("decode"), whole.counts("decode"))
    assert len(part) < len(whole) == 2100
    np.testing.assert_array_equal(part.counts("decode", last=20), whole.counts("decode", last=20))


def test_chunks_are_those_of_the_tokens_and_not_those_that_the_file_claims(golden, golden_path, tmp_path):
    chunks = recorded(golden_path, Chunk)
    np.testing.assert_allclose(golden.pressures()["mid"], [chunk.pressures.mid for chunk in chunks], atol=1e-9)
    np.testing.assert_allclose(golden.chunks()["coherence"], [chunk.signals.coherence for chunk in chunks], atol=1e-9)
    lines = golden_path.read_bytes().splitlines()
    forged = [
        to_json(msgspec.structs.replace(event, pressures=msgspec.structs.replace(event.pressures, mid=0.999)))
        if isinstance(event := from_json(line), Chunk)
        else line
        for line in lines
    ]
    path = tmp_path / "forged.moe.jsonl"
    path.write_bytes(b"\n".join(forged) + b"\n")
    np.testing.assert_array_equal(moe_watch.open(path).pressures()["mid"], golden.pressures()["mid"])


def test_what_was_not_recorded_is_refused_or_missing_and_never_zero(tmp_path):
    events = [bare(token) for token in made_tokens(30)]
    session = moe_watch.open(write_session(tmp_path / "bare.moe.jsonl", events=events))
    for quantity, name in ((session.weights, "weights"), (session.entropy, "entropy"), (session.margin, "margin")):
        with pytest.raises(UserError, match=f"no {name} in this recording"):
            quantity()
    with pytest.raises(UserError, match="no probabilities in this recording"):
        session.probabilities()
    assert np.isnan(session.tokens()["logprob"]).all()
    pressures = session.pressures()
    assert len(pressures["mid"]) == 7
    assert np.isnan(pressures["mid"]).all()
    assert session.experts().min() >= 0


def test_probabilities_come_where_they_were_recorded(tmp_path):
    even = [10000 // EXPERTS] * (LAYERS * EXPERTS)
    first, *rest = made_tokens(10)
    events = [msgspec.structs.replace(first, probs=even), *rest]
    session = moe_watch.open(write_session(tmp_path / "probs.moe.jsonl", events=events))
    found = session.probabilities()
    assert found.shape == (10, LAYERS, EXPERTS)
    np.testing.assert_allclose(found[0], 1 / EXPERTS, rtol=1e-6)
    assert np.isnan(found[1:]).all()


def test_batches_change_nothing(made, tmp_path, monkeypatch):
    whole = made.tokens() | {"churn": made.churn(), "experts": made.experts()}
    monkeypatch.setattr("moe_watch.sessions.reading.token_arrays.BATCH_ROWS", 7 * LAYERS)
    again = moe_watch.open(made.path)
    for name, found in (again.tokens() | {"churn": again.churn(), "experts": again.experts()}).items():
        np.testing.assert_array_equal(found, whole[name])


def test_fit_is_that_of_the_command(tmp_path):
    path = write_session(tmp_path / "long.moe.jsonl", 110)
    assert moe_watch.open(path).fit().candidates == fit_file(path).fit.candidates
    mid = [
        mid
        for mid, warm_up in zip(*map(moe_watch.open(path).pressures().get, ("mid", "warm_up")), strict=True)
        if not warm_up
    ]
    assert moe_watch.open(path).fit().p == fit_half_life(mid, mode="measured-v1", positions=list(range(10, 27))).p


def test_fit_of_too_little_says_so(golden):
    with pytest.raises(UserError, match=r"golden\.moe\.jsonl: no measured chunk"):
        golden.fit()


def test_torn_and_compressed_files_are_read_as_far_as_they_go(golden_path, tmp_path):
    import zstandard

    torn = tmp_path / "torn.moe.jsonl.zst"
    torn.write_bytes(zstandard.compress(golden_path.read_bytes()[:-20]))
    assert torn.read_bytes().startswith(ZSTANDARD)
    session = moe_watch.open(torn)
    assert len(session) == 9
    assert "cut off" in session.torn


@pytest.mark.parametrize("content", [b"", b"no session\n", b'{"event":"token"}\n'])
def test_what_is_no_session_is_refused_at_once(tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(UserError, match="not a moe-watch session"):
        moe_watch.open(path)
    with pytest.raises(UserError, match="no such file"):
        moe_watch.open(tmp_path / "absent")


def test_impossible_questions_are_refused(made):
    with pytest.raises(UserError, match="no phase called 'both'"):
        made.usage("both")
    with pytest.raises(UserError, match="a window of the last 0 tokens"):
        made.usage(last=0)


def test_a_number_that_fits_no_array_is_refused(made, tmp_path):
    lines = made.path.read_bytes().splitlines(keepends=True)
    path = tmp_path / "large.moe.jsonl"
    path.write_bytes(b"".join([lines[0], lines[1].replace(b'"id":0', b'"id":99999999999999999999')]))
    with pytest.raises(UserError, match=r"large\.moe\.jsonl"):
        moe_watch.open(path).tokens()


def test_a_session_without_tokens_has_arrays_of_length_zero(tmp_path):
    session = moe_watch.open(write_session(tmp_path / "none.moe.jsonl", events=[]))
    assert session.experts().shape == (0, LAYERS, K)
    assert session.entropy().shape == (0, LAYERS)
    assert np.isnan(session.usage()).all()
    assert session.tokens()["text"].shape == session.pressures()["mid"].shape == (0,)


def test_importing_the_package_imports_no_array_library():
    code = (
        "import moe_watch, sys; assert callable(moe_watch.open); print(sorted({'numpy', 'msgspec'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
