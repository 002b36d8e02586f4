"""Every fault is found by its check, and nothing is found in real recordings."""

from __future__ import annotations

import json

import numpy as np
import pytest

from moe_watch.commands.app import run
from moe_watch.routing.events import Chunk, Header, Keyframe, Teacher, Token, Unknown, Vitals, to_json
from moe_watch.sessions.verifying.file import verify
from moe_watch.sessions.verifying.run_checks import CHANCE, chance_of_evenness
from tests.sessions import faults
from tests.sessions.faults import BACKENDS, FAULTS, path_of, recorded, replace, write


@pytest.fixture
def path(tmp_path):
    return tmp_path / "session.moe.jsonl"


def checks(report):
    return {finding.check for finding in report.findings}


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_real_recording_is_fine(backend):
    report = verify(path_of(backend))
    assert report.findings == []
    assert report.remarks == []
    assert (report.tokens, report.chunks) == (145, 13)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_keyframe_is_computed_again(backend, path):
    events = faults.with_keyframe(recorded(backend))
    assert any(isinstance(event, Keyframe) for event in events)
    assert verify(write(path, events)).fine


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("spoil", "check"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_found(backend, spoil, check, path):
    report = verify(write(path, spoil(recorded(backend))))
    assert check in checks(report)


def nth_generated(events, n, **fields):
    """The same with other fields in the n-th generated token."""
    at = [place for place, event in enumerate(events) if isinstance(event, Token) and event.source == "generated"][n]
    return [*events[:at], replace(events[at], **fields), *events[at + 1 :]]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["logprob", "top_margin", "choice_gap"])
def test_one_prediction_that_was_captured_and_is_absent(backend, name, path):
    (found,) = verify(write(path, faults.derived_anew(nth_generated(recorded(backend), 17, **{name: None})))).findings
    assert (found.check, found.count) == ("captured", 1)
    assert found.text.endswith(f": has no {name}, which the header lists as captured")


def test_a_prediction_that_was_not_captured_and_is_there(path):
    without = [name for name in recorded()[0].capture if name != "logprob"]
    assert "captured" in checks(verify(write(path, faults.in_header(recorded(), capture=without))))


def test_a_token_that_a_run_had_to_take_may_have_been_impossible(path):
    """Its log-probability is minus infinity, which JSON does not hold."""
    events = nth_generated(recorded(), 3, logprob=None, choice_gap=0.9, top_margin=0.2)
    assert "captured" in checks(verify(write(path, events)))
    taught = faults.in_header(events, teacher=Teacher(model="other", backend="mlx", tokens=145))
    assert "captured" not in checks(verify(write(path, taught)))


@pytest.mark.parametrize(
    "fields",
    [
        {"logprob": -20.0, "choice_gap": 0.0, "top_margin": 0.5},
        {"logprob": -0.1, "choice_gap": 0.5, "top_margin": 0.1},
        {"logprob": -1.0, "choice_gap": 0.1, "top_margin": 0.3},
        {"logprob": -2.5, "choice_gap": 0.45, "top_margin": 0.05},
    ],
    ids=["the-first-below-its-margin", "more-than-one-in-all", "above-the-second", "two-with-more-than-one"],
)
def test_predictions_of_no_one_distribution(fields, path):
    found = verify(write(path, faults.derived_anew(nth_generated(recorded(), 17, **fields)))).findings
    assert [(each.check, each.count) for each in found] == [("prediction", 1)]


def test_absent_ids_contradict_nothing(path):
    """An injection whose tokens were recorded without ids; and two tokens of one moment that may be different ones."""
    events = [replace(event, id=-1) if isinstance(event, Token) else event for event in recorded()]
    assert verify(write(path, events)).findings == []
    assert "repeated tokens" not in checks(verify(write(path, faults.repeated(events))))


def test_it_is_said_where_and_how_often(path):
    (found,) = verify(write(path, faults.not_renormalised(recorded()))).findings
    assert (found.check, found.line, found.count) == ("weights", 3, 145)
    assert found.text == "layer 0: weights sum to 0.8000, but gate top_k_softmax allows 1"


def test_probabilities_that_fit_are_fine(path):
    """Uniform ones, with the entropy and the margin that they have."""

    def uniform(token):
        return replace(
            token,
            probs=[1250] * 48,
            entropy=[10_000] * 6,
            margin=[0] * 6,
            weights=[5000] * 12,
        )

    assert "probabilities" not in checks(verify(write(path, faults.each_token(recorded(), uniform))))


def test_a_torn_end_and_a_line_that_cannot_be_read(path):
    lines = path_of("mlx").read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:20], b"garbage\n", *lines[20:-1], lines[-1][:20]]))
    found = {each.check: each for each in verify(path).findings}
    assert found.keys() == {"unreadable lines", "torn end"}
    assert found["unreadable lines"].line == 21
    assert found["torn end"].line == len(lines) + 1


def test_a_recording_killed_before_its_end_is_fine(path):
    lines = path_of("mlx").read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:70]))
    report = verify(path)
    assert report.fine
    assert report.remarks == ["the recording ends before the run does"]


def test_a_recording_begun_in_the_middle_is_fine(path):
    events = faults.with_keyframe(recorded())
    at = faults.first(events, Keyframe)
    assert verify(write(path, [events[0], *events[at:]])).fine


def test_events_of_a_newer_version_are_counted_and_not_judged(path):
    events = faults.in_header(recorded(), schema_minor=99)
    report = verify(write(path, [*events[:5], Unknown("cache", b'{"event":"cache","hits":1}'), *events[5:]]))
    assert report.fine
    assert report.unknown == 1
    assert report.remarks == ["1 events of a newer version are not checked"]


def test_a_gate_that_is_not_known_is_said_and_not_judged(path):
    spoilt = faults.in_model(faults.not_renormalised(recorded()), gate="later(7)")
    report = verify(write(path, spoilt))
    assert report.fine
    assert report.remarks == ["gate 'later(7)' is unknown in this version: weights, entropy and margin are not checked"]


def test_a_recording_without_chunks_is_another_writers(path):
    report = verify(write(path, [event for event in recorded() if not isinstance(event, Chunk)]))
    assert report.fine
    assert report.remarks == ["no chunk is recorded; a replay computes them"]


def test_the_golden_session_is_whole_and_its_routing_made_up(golden_path):
    assert checks(verify(golden_path)) == {"entropy and margin", "prediction"}


class TestEvenness:
    def test_chance_is_bounded_from_above(self):
        """As often as it says, or less often, in counts that are drawn."""
        rng = np.random.default_rng(3)
        rows, experts, k, tries = 40, 4, 1, 4000
        drawn = rng.multinomial(rows * k, [1 / experts] * experts, size=tries)
        said = np.array([chance_of_evenness(counts, rows) for counts in drawn])
        for level in (0.001, 0.01, 0.1):
            assert (said <= level).mean() <= level + 3 * (level / tries) ** 0.5

    @pytest.mark.parametrize(("experts", "k"), [(8, 2), (64, 8), (128, 8), (2, 1)])
    def test_drawn_counts_are_never_too_even(self, experts, k):
        rng = np.random.default_rng(5)
        for _ in range(20):
            counts = np.zeros(experts, np.int64)
            for _ in range(200):
                counts[rng.permutation(experts)[:k]] += 1
            assert chance_of_evenness(counts, 200) > CHANCE

    def test_two_experts_alternate_now_and_then(self):
        assert chance_of_evenness(np.array([500, 500]), 1000) > 0.01


class TestCommand:
    def test_fine(self, capsys):
        assert run(["verify", *(str(path_of(backend)) for backend in BACKENDS)]) == 0
        out = capsys.readouterr().out.splitlines()
        assert out[0].endswith("pocket-mlx.moe.jsonl: fine (165 lines, 145 tokens, 13 chunks, schema 1.1)")
        assert out[-1] == "2 of 2 files are fine"

    def test_not_fine(self, capsys, path):
        write(path, faults.without(recorded(), Chunk, 3))
        assert run(["verify", str(path)]) == 1
        out = capsys.readouterr().out
        assert "1 kind of fault" in out
        assert "chunks: line " in out
        assert "chunk 3 is complete here, but not recorded" in out

    def test_one_that_cannot_be_read_does_not_hide_the_others(self, capsys, tmp_path):
        assert run(["verify", str(tmp_path / "none"), str(path_of("mlx"))]) == 2
        captured = capsys.readouterr()
        assert captured.err == f"moe-watch: {tmp_path / 'none'}: no such file: check the path\n"
        assert "pocket-mlx.moe.jsonl: fine" in captured.out

    def test_json(self, capsys, path, tmp_path):
        write(path, faults.not_renormalised(recorded()))
        assert run(["verify", "--json", str(path), str(tmp_path)]) == 2
        spoilt, folder = json.loads(capsys.readouterr().out)["files"]
        assert spoilt["status"] == 1
        assert [each["check"] for each in spoilt["findings"]] == ["weights"]
        assert spoilt["findings"][0]["count"] == 145
        assert folder["status"] == 2
        assert "a folder" in folder["error"]

    def test_no_file(self, capsys):
        assert run(["verify"]) == 2
        assert "Missing argument" in capsys.readouterr().err


def test_a_header_of_thousands_of_layers_takes_no_longer(path):
    head = recorded()[0]
    many = replace(
        head, model=replace(head.model, layers=list(range(20_000)), experts=8, expert_bytes=None, bytes=None)
    )
    assert isinstance(many, Header)
    path.write_bytes(to_json(many) + b"\n")
    assert verify(path).fine


@pytest.mark.parametrize("name", ["swapped_in", "swapped_out", "worker_read", "worker_faults"])
def test_a_counter_that_decreases_is_found(name, path):
    def with_vitals(*values):
        events = recorded(BACKENDS[0])
        readings = [Vitals(t=0.0, **{name: value}) for value in values]
        return verify(write(path, [*events[:1], *readings, *events[1:]]))

    assert with_vitals(5, None, 5, 9).fine
    (found,) = with_vitals(5, None, 4, 3).findings
    assert (found.check, found.count) == ("counters", 2)
    assert found.text == f"{name} decreases from 5 to 4"
