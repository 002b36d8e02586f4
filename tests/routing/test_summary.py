from __future__ import annotations

import json
from math import log

import msgspec
import pytest
from msgspec import to_builtins

from moe_watch.routing.events import Chunk, Pressures, Progress, State, Token
from moe_watch.routing.pressure.instruments import Instruments
from moe_watch.routing.summary import Summary
from tests.routing.pressure.test_instruments import make_run, tokens_of


def summarise(events):
    summary = Summary()
    for event in events:
        summary.feed(event)
    return json.loads(json.dumps(to_builtins(summary.result()), allow_nan=False))


PROMPT, CHUNK = 4, 5
"""Tokens in the runs of `make_run`."""


def mid_chunk(index, mid):
    pressures = Pressures(fast=0.0, mid=mid, slow=0.0, net=0.0, w_fast=0.2, w_mid=0.5, w_slow=0.1)
    return Chunk(index=index, first=20 * index, last=20 * index + 19, tokens=20, pressures=pressures)


def pressure_from(begin, chunks=30):
    """Return the pressure summary of a whole run, and of a recording that began after `begin` tokens."""
    header, lines = make_run(PROMPT + CHUNK * chunks)
    instruments, whole, part = Instruments(header), [header], [header]
    for token in tokens_of(lines):
        if token.i == begin:
            part.append(instruments.keyframe())
        events = [token, *instruments.feed(token)]
        whole += events
        part += events if token.i >= begin else []
    return summarise(whole)["pressure"], summarise(part)["pressure"]


def test_golden_summary_by_hand(golden_events):
    found = summarise(golden_events)
    assert found["tokens"] == {"prompt": 2, "injected": 1, "generated": 6}
    assert found["layers"] == [1, 2]
    assert found["usage"]["prefill"]["rows"] == [3, 2]
    assert found["usage"]["prefill"]["counts"] == [[1, 3, 1, 1], [1, 0, 1, 2]]
    assert found["usage"]["decode"]["rows"] == [6, 6]
    assert [sum(row) for row in found["usage"]["decode"]["counts"]] == [12, 12]
    entropies = [3000, 9000, 6000, 5500, 4700, 8700], [2500, 7000, 9500, 8800, 9900, 3300]
    assert found["router_entropy"]["per_layer"] == pytest.approx([sum(row) / 6 * 1e-4 for row in entropies])
    assert found["router_entropy"]["mean"] == pytest.approx(sum(map(sum, entropies)) / 12 * 1e-4)
    assert found["surprisal"] == pytest.approx((0.25 + 1.5 + 0.75 + 0.05 + 0.4 + 2.5) / 6)
    assert [chunk["tokens"] for chunk in found["pressure"]["chunks"]] == [[2, 3], [5, 6], [7, 8]]
    assert found["perturbations"] == found["marks"] == 1
    assert found["ended"] == {"state": "finished", "why": "length"}


def test_golden_routing_by_hand(golden_events):
    """Churn of six decode tokens: a token with another expert set than its predecessor shares one of three experts."""
    found = summarise(golden_events)
    assert found["churn"]["per_layer"] == pytest.approx([2 / 3 * 2 / 6, 2 / 3 * 4 / 6])
    assert found["churn"]["mean"] == pytest.approx(1 / 3)
    margins = [6000, 0, 3000, 4400, 6200, 1200], [8000, 2000, 100, 2200, 100, 7600]
    assert found["router_margin"]["per_layer"] == pytest.approx([sum(row) / 6 * 1e-4 for row in margins])
    prefill = found["usage"]["prefill"]
    assert prefill["shares"] == [[1 / 6, 3 / 6, 1 / 6, 1 / 6], [1 / 4, 0, 1 / 4, 2 / 4]]
    assert prefill["dead"] == [0, 1]
    assert prefill["experts_for_90"] == [4, 3]
    assert prefill["usage_entropy"] == pytest.approx([(log(6) - 0.5 * log(3)) / log(4), 0.75])
    assert prefill["gini"] == pytest.approx([0.25, 0.375])


def test_a_layer_that_was_not_computed_is_no_part_of_a_mean(golden_events):
    header, *events = golden_events
    first, second = [event for event in events if isinstance(event, Token) and event.phase == "decode"][:2]
    absent = {"experts": [None, None, *first.experts[2:]], "entropy": [None, 2500], "margin": [None, 8000]}
    found = summarise([header, msgspec.structs.replace(first, **absent), second])
    assert found["usage"]["decode"]["rows"] == [1, 2]
    assert found["router_entropy"]["per_layer"] == pytest.approx([0.9, (0.25 + 0.7) / 2])
    assert found["router_entropy"]["mean"] == pytest.approx((0.9 + 0.25 + 0.7) / 3)
    assert found["churn"]["per_layer"] == [None, pytest.approx(2 / 3)]


def test_across_lost_tokens_churn_is_counted_against_the_one_that_the_keyframe_knows():
    header, lines = make_run(PROMPT + 4 * CHUNK)
    instruments, with_gap, pairs = Instruments(header), [header], []
    before = None
    for token in tokens_of(lines):
        if token.i == PROMPT + 2 * CHUNK:
            with_gap.append(instruments.keyframe())
        instruments.feed(token)
        if not PROMPT + CHUNK <= token.i < PROMPT + 2 * CHUNK:
            with_gap.append(token)
            if token.phase == "decode":
                pairs.append((before, token))
        before = token
    layers, k = len(header.model.layers), header.model.experts_per_token
    rows = [[{*each.experts[at * k : at * k + k]} for at in range(layers)] for pair in pairs for each in pair]
    churned = [
        [1 - len(a & b) / len(a | b) for a, b in zip(*two, strict=True)]
        for two in zip(rows[::2], rows[1::2], strict=True)
    ]
    assert len(pairs) == 3 * CHUNK
    expected = [sum(row) / len(pairs) for row in zip(*churned, strict=True)]
    assert summarise(with_gap)["churn"]["per_layer"] == pytest.approx(expected)


def test_nothing_is_churned_across_a_fresh_context(golden_events):
    header, *events = golden_events
    tokens = [event for event in events if isinstance(event, Token)]
    fresh = State(state="fresh_context", i=3, t=0.1)
    whole, cut = summarise([header, *tokens[:4]]), summarise([header, *tokens[:3], fresh, *tokens[3:4]])
    assert whole["churn"]["per_layer"] == pytest.approx([1 / 3, 2 / 3])
    assert cut["churn"]["per_layer"] == pytest.approx([2 / 3, 2 / 3]), "the first decode token's alone"


def test_tokens_that_would_have_ended_the_text_are_counted(golden_events):
    ends = [
        msgspec.structs.replace(event, would_stop=event.i in (2, 5)) if isinstance(event, Token) else event
        for event in golden_events
    ]
    assert (summarise(golden_events)["would_stop"], summarise(ends)["would_stop"]) == (0, 2)


def test_crossing_is_absent_while_everything_is_warm_up(golden_events):
    assert summarise(golden_events)["pressure"]["crossing"] == {"chunk": None}
    assert summarise(golden_events)["pressure"]["initial"] is None


@pytest.mark.parametrize("chunks", [0, 3, 10, 10.4])
def test_recording_that_begins_before_the_start_of_the_measurement_knows_it(chunks):
    whole, part = pressure_from(PROMPT + int(CHUNK * chunks))
    assert whole["begins_at_chunk"] is None
    assert part["begins_at_chunk"] == int(chunks)
    assert part["initial"] == whole["initial"] is not None
    assert part["crossing"] == whole["crossing"]
    assert part["warm_up_missing"] == whole["warm_up_missing"] == 0
    assert part["chunks"] == whole["chunks"][int(chunks) :]


@pytest.mark.parametrize("chunks", [11, 20.6])
def test_recording_that_begins_after_the_start_of_the_measurement_does_not_know_it(chunks):
    whole, part = pressure_from(PROMPT + int(CHUNK * chunks))
    assert whole["initial"] is not None
    assert part["initial"] is None
    assert part["crossing"] == {"chunk": None}
    assert part["begins_at_chunk"] == int(chunks)
    assert part["chunks"] == whole["chunks"][int(chunks) :]


def test_crossing_that_is_only_one_from_where_the_recording_begins():
    header, _ = make_run(PROMPT)
    frame = msgspec.structs.replace(Instruments(header).keyframe(), i=100, chunks=15, complete_chunks=15)
    mids = [mid_chunk(15, 0.5), mid_chunk(16, 0.1)]
    assert summarise([header, *mids])["pressure"]["crossing"] == {"chunk": 16}
    assert summarise([header, frame, *mids])["pressure"]["crossing"] == {"chunk": None}


def test_warm_up_counts_what_was_before_the_recording():
    whole, part = pressure_from(PROMPT + 3 * CHUNK, chunks=6)
    assert part["warm_up_missing"] == whole["warm_up_missing"] == 4


def test_keyframes_of_a_whole_run_change_nothing():
    header, lines = make_run(PROMPT + CHUNK)
    instruments = Instruments(header)
    events = [header, instruments.keyframe()]
    for token in tokens_of(lines):
        events += [token, *instruments.feed(token)]
    assert summarise([*events, instruments.keyframe()])["pressure"]["begins_at_chunk"] is None


def test_nothing_decoded_is_null_and_never_zero(golden_events):
    found = summarise(golden_events[:3])
    assert found["router_entropy"] is None
    assert found["usage"]["decode"]["shares"] == [[None] * 4] * 2
    assert found["usage"]["decode"]["dead"] == [None, None]
    assert found["churn"] is None


def test_a_summary_is_json_and_ignores_progress(golden_events):
    found = summarise([*golden_events, Progress(stage="loading")])
    assert found == summarise(golden_events)


def test_a_new_header_begins_a_new_run(golden_events):
    assert summarise([*golden_events, *golden_events]) == summarise(golden_events)


def test_no_events_no_summary():
    assert Summary().result() is None
