"""Counts step by step: what of them is kept, and how a replay goes through them."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
from msgspec import to_builtins

import moe_watch
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Keyframe, State, to_json
from moe_watch.routing.summary import Summary
from moe_watch.sessions.export.exporter import ExportPlan, export_session
from moe_watch.sessions.imports import count_steps as importing_steps
from moe_watch.sessions.imports.importer import import_trace
from moe_watch.sessions.imports.session_writer import IN_ORDER
from moe_watch.sessions.imports.traces import ImportOptions
from moe_watch.sessions.reading.reader import SessionReader
from moe_watch.sessions.replaying.count_steps import STEP_SECONDS
from moe_watch.sessions.replaying.source import ReplaySource
from moe_watch.sessions.source import BACK, END, HOME, STEP, Jump
from moe_watch.sessions.verifying.file import verify
from moe_watch.tui.offscreen import run_unseen
from tests.sessions.kit import ManualClock

TWO = ImportOptions(experts_per_token=2)
STEPS, LAYERS, EXPERTS, TOKENS = 5, 3, 6, 10


def made_counts(steps=STEPS, tokens=TOKENS):
    """Selections [steps, layers, experts] of two experts per token, none in layer 0."""
    rng = np.random.default_rng(4)
    counts = np.zeros((steps, LAYERS, EXPERTS), np.int64)
    for step in range(steps):
        for layer in range(1, LAYERS):
            for _ in range(tokens):
                counts[step, layer, rng.choice(EXPERTS, 2, replace=False)] += 1
    return counts


@pytest.fixture
def imported(tmp_path):
    def run(counts, **named):
        path = tmp_path / "dump.npz"
        np.savez(path, logical_count=counts)
        return import_trace(path, TWO, folder=tmp_path / "sessions", **named).path

    return run


def keyframes(path):
    return [event for event in SessionReader(path) if isinstance(event, Keyframe)]


def summary_of(path):
    summary, reader = Summary(), SessionReader(path)
    for event in [reader.header, *reader]:
        summary.feed(event)
    return to_builtins(summary.result())


def counts_of(frame):
    return np.array(frame.counts_prefill)


def test_each_step_is_a_state_that_counts_those_before_it(imported):
    counts = made_counts()
    found = keyframes(imported(counts))
    assert [frame.i for frame in found] == [TOKENS * (step + 1) for step in range(STEPS)]
    for frame, total in zip(found, counts.cumsum(0)[:, 1:], strict=True):
        np.testing.assert_array_equal(counts_of(frame), total)
        assert frame.rows_prefill == [frame.i] * (LAYERS - 1)
    assert verify(imported(counts)).findings == []
    assert IN_ORDER in SessionReader(imported(counts)).header.warnings
    assert IN_ORDER not in SessionReader(imported(counts[:1])).header.warnings


def test_arrays_and_export_have_the_sum_of_all_steps(imported, tmp_path):
    counts = made_counts()
    path = imported(counts)
    session = moe_watch.open(path)
    np.testing.assert_array_equal(session.counts("prefill"), counts.sum(0)[1:])
    np.testing.assert_allclose(session.usage("prefill"), counts.sum(0)[1:] / (2 * TOKENS * STEPS))
    export_session(path, ExportPlan("json", tmp_path / "out"))
    rows = json.loads((tmp_path / "out/usage.json").read_text())
    assert [row["selections"] for row in rows] == counts.sum(0)[1:].ravel().tolist()
    assert {row["rows"] for row in rows} == {TOKENS * STEPS}


def test_a_summary_has_the_sum_of_all_steps(imported):
    counts = made_counts()
    usage = summary_of(imported(counts))["usage"]
    assert usage["prefill"]["counts"] == counts.sum(0)[1:].tolist()
    assert usage["prefill"]["rows"] == [TOKENS * STEPS] * (LAYERS - 1)
    assert not np.any(usage["decode"]["counts"])


def test_steps_in_which_nothing_was_counted_are_left_out(imported):
    counts = np.zeros((8, LAYERS, EXPERTS), np.int64)
    counts[[1, 4, 6]] = made_counts(3)
    assert [frame.i for frame in keyframes(imported(counts))] == [10, 20, 30]


def test_a_step_that_gets_no_layer_further_goes_with_the_next(imported):
    counts = made_counts(3)
    counts[0, 1] *= 4
    counts[1, 1] = 0
    found = keyframes(imported(counts))
    assert [frame.i for frame in found] == [40, 50]
    np.testing.assert_array_equal(counts_of(found[-1]), counts.sum(0)[1:])


def test_steps_that_are_no_whole_tokens_are_summed(imported):
    counts = made_counts(2)
    counts[:, 1, 0] += 1
    path = imported(counts)
    (frame,) = keyframes(path)
    np.testing.assert_array_equal(counts_of(frame), counts.sum(0)[1:])
    assert importing_steps.NOT_WHOLE in SessionReader(path).header.warnings


@pytest.mark.parametrize(
    ("add", "reason"),
    [((-40, 40), "a negative count"), ((1.5, 1.5), "not a whole number"), ((2.0**62, 0), "more than")],
)
def test_steps_whose_sums_alone_could_be_counts_are_refused(imported, add, reason):
    counts = made_counts(2).astype(np.float64)
    counts[:, 1, :2] += np.array(add)[:, None]
    with pytest.raises(UserError, match=reason):
        imported(counts)


def test_a_sum_beyond_64_bits_does_not_wrap_into_a_plausible_one(imported):
    counts = made_counts(3)
    counts[:, 1, 0] = [2**63 - 1, 2**63 - 1, 4]
    assert 0 < counts.sum(0)[1, 0] < 10
    with pytest.raises(UserError, match="more than 9,007,199,254,740,992 selections"):
        imported(counts)


def test_more_steps_than_a_session_holds_are_put_together(imported, monkeypatch):
    monkeypatch.setattr(importing_steps, "MOST_CELLS", 4 * (LAYERS - 1) * EXPERTS)
    counts = made_counts(7)
    path = imported(counts)
    assert [frame.i for frame in keyframes(path)] == [20, 40, 60, 70]
    assert any(
        "7 steps are more than a session holds: each 2 are summed" in each
        for each in SessionReader(path).header.warnings
    )


def test_passes_of_a_dump_are_steps(tmp_path):
    places = [[0, 1, 2, 3, 0], [3, 2, 1, 0, 3]]
    passes = [{"global_physical_count": [[1, 2, 3, 4, 10], [5, 1, 1, 3, 10]]}, {"global_physical_count": [[1] * 5] * 2}]
    path = tmp_path / "dump.json"
    path.write_text(json.dumps({"records": passes, "last_physical_to_logical_map": places}))
    found = keyframes(import_trace(path, ImportOptions(experts_per_token=1), folder=tmp_path).path)
    assert [counts_of(frame).tolist() for frame in found] == [
        [[11, 2, 3, 4], [3, 1, 1, 15]],
        [[13, 3, 4, 5], [4, 2, 2, 17]],
    ]


def test_only_a_recording_of_counts_may_skip_tokens(imported, tmp_path):
    path = imported(made_counts())
    lines = path.read_bytes().splitlines(keepends=True)
    other = tmp_path / "other.moe.jsonl"
    other.write_bytes(b"".join([lines[0].replace(b'"counts"', b'"experts"'), *lines[1:]]))
    with pytest.raises(UserError, match="line 3: a keyframe after 20 tokens instead of 10"):
        list(SessionReader(other))
    back = tmp_path / "back.moe.jsonl"
    back.write_bytes(b"".join([lines[0], lines[2], lines[1]]))
    with pytest.raises(UserError, match="line 3: a keyframe after 10 tokens instead of 20"):
        list(SessionReader(back))


# -- replay


@pytest.fixture
def replay(imported):
    clock = ManualClock()
    source = ReplaySource(imported(made_counts()), clock)
    source.start()
    yield source, clock
    source.close()


def drained(source):
    """Tokens counted by each state that a replay gives now."""
    return [item.i for item in source.drain() if isinstance(item, Keyframe)]


def landed(source, jump):
    """The states given until nothing more comes of a jump."""
    source.seek(jump)
    return [i for _ in range(3) for i in drained(source)]


def test_steps_are_shown_one_after_the_other(replay):
    source, clock = replay
    assert drained(source) == [10]
    assert drained(source) == []
    clock.advance(STEP_SECONDS)
    assert drained(source) == [20]
    source.set_pace(2.0)
    clock.advance(STEP_SECONDS)
    assert drained(source) == [30, 40]
    source.set_pace(0.0)
    items = source.drain()
    assert [item.i for item in items if isinstance(item, Keyframe)] == [50]
    assert isinstance(items[-1], State)
    assert source.ended


def test_its_timeline_goes_by_tokens(replay):
    source, _ = replay
    source.drain()
    there = source.timeline
    assert (there.first, there.position, there.tokens, there.seconds) == (0, 10, 50, 0.0)
    assert "seek" in source.abilities


@pytest.mark.parametrize(
    ("jump", "given"),
    [
        (HOME, []),
        (Jump("token", 9), []),
        (Jump("token", 10), [10]),
        (Jump("token", 35), [20, 30]),
        (Jump("token", 40), [30, 40]),
        (END, [40, 50]),
        (Jump("token", 999), [40, 50]),
        (Jump("time", 2 * STEP_SECONDS), [10, 20]),
        (Jump("time", 99.0, relative=True), [40, 50]),
        (Jump("time", -99.0, relative=True), []),
        (Jump("chunk", 3), [20, 30]),
    ],
)
def test_a_jump_gives_the_step_it_leads_to_and_the_one_before(replay, jump, given):
    source, _ = replay
    source.pause()
    assert landed(source, jump) == given
    assert source.timeline.position == (given[-1] if given else 0)


def test_steps_forward_and_back(replay):
    source, _ = replay
    source.pause()
    assert landed(source, Jump("token", 20)) == [10, 20]
    assert landed(source, STEP) == [30]
    assert landed(source, BACK) == [10, 20]
    assert landed(source, BACK) == [10]


def test_playing_goes_on_behind_a_jump(replay):
    source, clock = replay
    assert landed(source, Jump("token", 30)) == [20, 30]
    clock.advance(STEP_SECONDS)
    assert drained(source) == [40]


def test_counts_without_steps_have_no_place_to_go_to(imported):
    source = ReplaySource(imported(made_counts(1)), ManualClock())
    source.start()
    assert drained(source) == [10]
    assert source.timeline is None
    assert "seek" not in source.abilities
    source.close()


@pytest.mark.parametrize("experts", [0, EXPERTS])
def test_counts_of_no_layers_come_to_nothing(imported, tmp_path, experts):
    """No import makes them, but a file may say so."""
    made = imported(made_counts())
    header, frame = SessionReader(made).header, keyframes(made)[0]
    model = msgspec.structs.replace(
        header.model, layers=[], experts=experts, experts_per_token=min(experts, 2), expert_bytes=None
    )
    of_layers = [name for name, value in msgspec.structs.asdict(frame).items() if isinstance(value, list)]
    frame = msgspec.structs.replace(
        frame, **{name: [] for name in [*of_layers, "average_meso", "average_macro", "phases"]}, coherence=None
    )
    path = tmp_path / "none.moe.jsonl"
    path.write_bytes(b"".join(to_json(each) + b"\n" for each in (msgspec.structs.replace(header, model=model), frame)))
    assert summary_of(path)["usage"]["prefill"]["counts"] == []
    run_unseen(ReplaySource(path, speed=0))
