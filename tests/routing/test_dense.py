"""A run of a dense model: chunks mark their boundaries and have no signals; keyframes restore the rest."""

from __future__ import annotations

import msgspec
import pytest

from moe_watch.routing.events import Chunk, Keyframe, Token, from_json, to_json
from moe_watch.routing.header import NO_GATE, experts_per_token
from moe_watch.routing.pressure.formulas import MODES
from moe_watch.routing.pressure.instruments import Instruments
from moe_watch.routing.pressure.missing_signals import DENSE, lacking_signals
from moe_watch.routing.summary import Summary
from tests.dense_runs import as_dense
from tests.tui.events import header, main_run

MOE = main_run(1500, inject_after=285)
RUN = as_dense(MOE)


def facts(chunk):
    return (chunk.index, chunk.context, chunk.first, chunk.last, chunk.tokens, chunk.partial, chunk.warm_up)


def test_the_shape_of_a_dense_model():
    model = RUN[0].model
    assert model.is_dense
    assert RUN[0].is_dense
    assert (model.k_by_layer, model.schema, model.gate) == ([], 1, NO_GATE)
    assert experts_per_token([]) == 0
    assert not MOE[0].is_dense


def test_chunks_have_the_boundaries_of_an_moe_run_and_no_signals():
    theirs, ours = ([event for event in run if isinstance(event, Chunk)] for run in (MOE, RUN))
    assert list(map(facts, ours)) == list(map(facts, theirs))
    assert len(ours) > 70
    assert any(chunk.partial for chunk in ours), "an injection cuts a chunk"
    assert {(chunk.signals, chunk.pressures, chunk.residual, chunk.pause) for chunk in ours} == {
        (None, None, 0.0, None)
    }
    assert all(chunk.pressures is not None for chunk in theirs), "the same instruments compute pressure"


@pytest.mark.parametrize("mode", MODES)
def test_no_mode_has_pressure(mode):
    instruments = Instruments(RUN[0], mode, keyframes=False)
    chunks = [each for event in RUN[1:] if not isinstance(event, Chunk | Keyframe) for each in instruments.feed(event)]
    assert len(chunks) > 70
    assert all(chunk.pressures is None and chunk.signals is None for chunk in chunks)
    assert lacking_signals(RUN[0], mode) == DENSE


def test_a_keyframe_is_whole_after_a_round_through_json():
    frames = [event for event in RUN if isinstance(event, Keyframe)]
    assert len(frames) >= 2
    for frame in frames:
        assert (frame.rows_decode, frame.counts_decode, frame.phases, frame.coherence) == ([], [], b"", None)
        assert from_json(to_json(frame)) == frame


@pytest.mark.parametrize("after", [711, 715, 1010], ids=["boundary", "in a chunk", "later"])
def test_instruments_continue_from_a_keyframe(after):
    """Instruments that begin at a keyframe derive the same chunks as instruments of the whole run."""
    whole, rest, expected, seen = Instruments(RUN[0]), None, [], []
    for event in RUN[1:]:
        if isinstance(event, Chunk | Keyframe):
            continue
        derived = whole.feed(event)
        if rest is not None:
            expected += derived
            seen += rest.feed(event)
        elif isinstance(event, Token) and event.i == after:
            rest = Instruments(RUN[0])
            rest.feed(from_json(to_json(whole.keyframe())))
    assert [each for each in seen if isinstance(each, Chunk)] == [each for each in expected if isinstance(each, Chunk)]
    assert seen


def test_the_summary_has_text_and_surprisal_and_says_why_the_rest_is_absent():
    ours, theirs = Summary(), Summary()
    for run, summary in ((RUN, ours), (MOE, theirs)):
        for event in run:
            summary.feed(event)
    dense, moe = ours.result(), theirs.result()
    assert (dense.layers, dense.experts, dense.experts_per_token) == ([], 0, 0)
    assert (dense.tokens, dense.surprisal, dense.perturbations) == (moe.tokens, moe.surprisal, moe.perturbations)
    assert (dense.router_entropy, dense.router_margin, dense.churn) == (None, None, None)
    assert dense.usage.decode.rows == dense.usage.decode.counts == dense.usage.decode.dead == []
    pressure = dense.pressure
    assert (pressure.fit, pressure.fit_unavailable, pressure.warm_up_missing, pressure.initial) == (
        None,
        DENSE,
        None,
        None,
    )
    assert {context.fit_unavailable for context in pressure.contexts} == {DENSE}
    assert len(pressure.chunks) == len(moe.pressure.chunks)


def test_imported_counts_without_layers_are_not_dense():
    counted = as_dense([header(capture=["counts"])])[0]
    counted = msgspec.structs.replace(counted, capture=["counts"])
    assert counted.model.is_dense
    assert not counted.is_dense
    assert lacking_signals(counted, MODES[0]) == "pressure needs tokens in order, which this recording does not have"
