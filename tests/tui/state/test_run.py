from __future__ import annotations

import itertools
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from moe_watch.routing.events import (
    Change,
    Chunk,
    Cost,
    Header,
    Keyframe,
    Marker,
    Progress,
    Sampling,
    State,
    Token,
    Unknown,
)
from moe_watch.routing.usage.counts import overlap
from moe_watch.tui.state.pressure.injections import GO_ON
from moe_watch.tui.state.run import RunView
from moe_watch.tui.state.tokens.stream_pieces import PIECES_KEPT, PIECES_SLACK, Piece, StreamPieces
from tests.tui.events import CAPTURE, MadeUpRun, header, main_run


def fold(items):
    view = RunView()
    for item in items:
        view.feed(item)
    return view


def tokens_of(items, phase):
    return [item for item in items if isinstance(item, Token) and item.phase == phase]


def test_nothing_is_known_before_the_header():
    view = fold([Progress(stage="loading", done=3, total=9, unit="bytes")])
    assert view.status == "loading"
    assert view.header is None
    assert view.window is None
    assert (view.tokens, view.chunks, view.position) == (0, 0, 0)


@pytest.mark.parametrize(
    ("extra", "status"),
    [
        ([], "streaming"),
        ([State(state="paused", i=9, t=1.0, why="chunk")], "paused"),
        ([State(state="paused", i=9, t=1.0), State(state="resumed", i=9, t=2.0)], "streaming"),
        ([State(state="finished", i=9, t=1.0, why="eos")], "finished"),
        ([State(state="error", i=9, t=1.0, message="gone")], "failed"),
    ],
    ids=["streaming", "paused", "resumed", "finished", "failed"],
)
def test_status_follows_the_stream(extra, status):
    run = MadeUpRun()
    assert fold([*run.prompt(), *run.generate(5), *extra]).status == status


def test_status_before_the_first_decode_token():
    head = header()
    assert fold([head]).status == "waiting"
    assert fold([head, Progress(stage="prefill", done=1, total=9, unit="tokens")]).status == "prefill"
    assert fold(MadeUpRun().prompt()).status == "prefill"


def test_going_on_after_the_end_streams_again():
    run = MadeUpRun()
    items = [*run.prompt(), *run.generate(30), *run.state("finished", why="eos"), *run.inject(), *run.generate(1)]
    assert fold(items).status == "streaming"


def test_a_header_begins_a_new_run():
    first, second = main_run(60), main_run(25)
    view = fold([*first, *second])
    alone = fold(second)
    assert view.runs == 2
    assert view.tokens == alone.tokens
    assert view.pieces == alone.pieces
    assert np.array_equal(view.window.usage.counts, alone.window.usage.counts)


def test_usage_of_the_window_is_that_of_the_last_256_decode_tokens():
    items = main_run(400)
    view = fold(items)
    expected = np.zeros((6, 8), int)
    for token in tokens_of(items, "decode")[-256:]:
        for layer, experts in enumerate(np.reshape(token.experts, (6, 2))):
            expected[layer, experts] += 1
    assert view.window_phase == "decode"
    assert view.window.tokens == 256
    assert np.array_equal(view.window.usage.counts, expected)


def test_the_prompt_is_shown_until_the_first_decode_token():
    run = MadeUpRun()
    prompt = list(run.prompt())
    view = fold(prompt)
    assert view.window_phase == "prefill"
    assert view.window.tokens == len(tokens_of(prompt, "prefill"))
    view.feed(next(run.generate(1)))
    assert view.window_phase == "decode"
    assert view.window.tokens == 1


def test_entropy_effective_experts_and_churn_are_means_over_layers_and_tokens():
    items = main_run(120)
    view = fold(items)
    decoded = tokens_of(items, "decode")
    entropy = np.array([token.entropy for token in decoded]) * 1e-4
    routed = [np.reshape(token.experts, (6, 2)) for token in items if isinstance(token, Token)]
    churn = [1 - overlap(now, before) for before, now in itertools.pairwise(routed)][-len(decoded) :]
    assert view.window.mean_entropy() == pytest.approx(entropy.mean())
    assert view.window.layer_entropy() == pytest.approx(entropy.mean(0))
    assert view.window.token_entropy() == pytest.approx(entropy.mean(1))
    assert view.window.effective() == pytest.approx((8**entropy).mean())
    assert view.window.churn() == pytest.approx(np.mean(churn))


def test_token_entropy_stays_in_order_when_the_window_is_full():
    items = main_run(300)
    expected = np.array([token.entropy for token in tokens_of(items, "decode")[-256:]]).mean(1) * 1e-4
    assert fold(items).window.token_entropy() == pytest.approx(expected)


def test_layers_that_were_not_computed_are_left_out_not_zero():
    run = MadeUpRun()
    items = list(run.prompt())
    for token in list(run.generate(10)):
        if isinstance(token, Token):
            token = msgspec.structs.replace(
                token, experts=[*token.experts[:-2], None, None], entropy=[*token.entropy[:-1], None], margin=None
            )
        items.append(token)
    view = fold(items)
    assert np.isnan(view.window.layer_entropy()[-1])
    assert np.isnan(view.window.usage.shares()[-1]).all()
    assert view.window.layer_entropy()[:-1].min() > 0
    assert view.pieces[-1].entropy == pytest.approx(np.mean(items[-1].entropy[:-1]) * 1e-4)


def test_a_run_without_entropy_says_so_instead_of_zero():
    run = MadeUpRun(header(capture=CAPTURE[:2]))
    bare = [msgspec.structs.replace(item, entropy=None) if isinstance(item, Token) else item for item in run.prompt()]
    view = fold(bare)
    assert np.isnan(view.window.mean_entropy())
    assert view.pieces[-1].entropy is None


def test_rate_is_measured_on_event_times_over_two_seconds():
    run = MadeUpRun(rate=40.0)
    view = fold([*run.prompt(), *run.generate(400)])
    assert view.rate.value() == pytest.approx(40.0, rel=0.02)


def test_rate_needs_two_different_times_and_forgets_the_past():
    view = fold(MadeUpRun().prompt())
    assert view.rate.value() is None
    for t in (0.0, 0.0):
        view.rate.add(t)
    assert view.rate.value() is None
    for t in (10.0, 10.1, 10.2):
        view.rate.add(t)
    assert view.rate.value() == pytest.approx(10.0)


def test_pieces_carry_what_the_stream_colours_by():
    run = MadeUpRun()
    items = [*run.prompt(), *run.generate(3)]
    piece, token = fold(items).pieces[-1], items[-1]
    assert (piece.role, piece.text, piece.i) == ("generated", token.text, token.i)
    assert piece.surprisal == -token.logprob
    assert piece.probability == pytest.approx(np.exp(token.logprob))


def test_marks_stand_between_the_tokens_where_they_happened():
    run = MadeUpRun()
    items = [
        *run.prompt(),
        *run.generate(2),
        *run.inject(GO_ON),
        Marker(i=run.i, t=run.t, note="here"),
        *run.inject("And then?"),
        *run.inject("Why?", "turn"),
        *run.state("fresh_context"),
        *run.state("finished", why="length"),
    ]
    marks = [
        (piece.role, piece.text)
        for piece in fold(items).pieces
        if piece.role not in ("prompt", "injected", "generated")
    ]
    assert marks == [
        ("inject", "go on"),
        ("note", "here"),
        ("inject", "say"),
        ("inject", "next turn"),
        ("fresh", ""),
        ("end", "length"),
    ]


def test_position_counts_from_the_last_fresh_context():
    run = MadeUpRun()
    items = [*run.prompt(), *run.generate(50), *run.state("fresh_context"), *run.generate(7)]
    view = fold(items)
    assert view.position == 7
    assert view.tokens > 50


def test_a_context_longer_than_training_is_flagged():
    head = header()
    short = replace_model(head, trained_length=30)
    assert fold(main_run(40, head=head)).beyond_trained is None
    assert fold(main_run(40, head=short)).beyond_trained == 30
    assert fold(main_run(40, head=replace_model(head, trained_length=None))).beyond_trained is None


def replace_model(head: Header, **changes) -> Header:
    return msgspec.structs.replace(head, model=msgspec.structs.replace(head.model, **changes))


def test_recorded_chunks_are_taken_as_they_are_and_the_other_mode_is_computed():
    items = main_run(130)
    recorded = [item for item in items if isinstance(item, Chunk)]
    view = fold(items)
    assert list(view.tracks["measured-v2"].chunks) == recorded
    other = view.tracks["chronomoe-v1"].chunks
    assert [chunk.first for chunk in other] == [chunk.first for chunk in recorded]
    assert all(mine.pressures != theirs.pressures for mine, theirs in zip(other, recorded, strict=True))


def test_a_run_recorded_in_the_other_mode_gets_the_measured_one_computed():
    view = fold(main_run(45, head=header(pressure="chronomoe-v1")))
    assert view.other_mode == "measured-v2"
    assert len(view.tracks["measured-v2"].chunks) == 2


def test_the_next_chunk_boundary_is_counted_down():
    run = MadeUpRun()
    view = fold([*run.prompt(), *run.generate(13)])
    assert view.clock.missing == 7
    for item in run.inject():
        view.feed(item)
    assert view.clock.missing == 20


def test_cost_and_loss_are_kept():
    cost = Cost(tap_off=100.0, tap_on=98.0, ratio=0.98)
    view = fold(
        [header(), cost, State(state="dropped", i=3, t=0.1, count=4), State(state="dropped", i=3, t=0.1, count=2)]
    )
    assert view.cost == cost
    assert view.counts.dropped == 6


def test_what_is_not_known_changes_nothing():
    items = main_run(30)
    before, after = fold(items), fold([*items, Unknown("galaxy", b"{}")])
    assert list(after.pieces) == list(before.pieces)
    assert after.status == before.status


def test_a_keyframe_in_the_stream_is_no_token():
    run = MadeUpRun()
    items = [*run.prompt(), *run.generate(1010)]
    assert any(isinstance(item, Keyframe) for item in items)
    assert fold(items).decoded == 1010


def test_memory_is_bounded():
    run = MadeUpRun(header(2, 4, 1))
    view = fold(run.prompt())
    for i in range(2 * PIECES_KEPT):
        view.stream.add(replace(view.pieces[-1], i=i))
        assert len(view.pieces) <= PIECES_KEPT + PIECES_SLACK
    assert len(view.pieces) >= PIECES_KEPT
    assert view.stream.seen > 2 * PIECES_KEPT
    assert [piece.i for piece in view.stream.newest(2)] == [2 * PIECES_KEPT - 2, 2 * PIECES_KEPT - 1]
    assert view.stream.newest(0) == []


def test_a_list_of_pieces_and_its_length_are_a_snapshot():
    stream = StreamPieces()
    for i in range(PIECES_KEPT + PIECES_SLACK - 1):
        stream.add(Piece("generated", "x", i))
    kept, length = stream.kept, len(stream.kept)
    for i in range(length, length + 3):
        stream.add(Piece("generated", "x", i))
    stream.begin_text(Piece("jump", "", 9))
    assert [piece.i for piece in kept[:length]] == list(range(length))
    assert [piece.role for piece in stream.kept] == ["jump"]


def test_the_golden_session_folds(golden_events):
    view = fold(golden_events)
    assert view.tracks[view.header.pressure].seen == sum(isinstance(event, Chunk) for event in golden_events)
    assert view.perturbations == 1
    assert view.vitals.last is not None


def test_a_recording_that_begins_within_a_chunk_counts_down_to_its_end():
    run = MadeUpRun(header(multistep=True))
    list(run.prompt())
    list(run.generate(33))
    view = fold([run.header, run._instruments.keyframe()])
    assert view.clock.missing == 7
    assert view.multistep


def test_changes_are_folded_and_marked():
    run = MadeUpRun()
    sampling = Sampling(temperature=0.5, seed=7)
    items = [
        *run.prompt(),
        Change(i=run.i, t=0.0, tap=False, multistep=True, sampling=sampling),
    ]
    view = fold(items)
    assert (view.tap_off_at, view.multistep, view.sampling) == (run.i, True, sampling)
    marks = [piece.text for piece in view.pieces if piece.role == "change"]
    assert marks == ["tap off", "multistep on", "temperature 0.5, top-p 1"]
    view.feed(Change(i=run.i, t=0.0, tap=True))
    assert (view.tap_off_at, view.multistep) == (None, True)


def test_a_new_run_is_observed_whatever_the_one_before_was():
    run = MadeUpRun()
    view = fold([*run.prompt(), Change(i=run.i, t=0.0, tap=False), *main_run(25)])
    assert view.tap_off_at is None
    assert view.window.tokens == 25
