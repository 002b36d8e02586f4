"""Tokens without the tap: quantities that other tokens still give, and quantities that become absent."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from moe_watch.routing.events import Chunk, Token, from_json, to_json
from moe_watch.routing.pressure.instruments import Instruments
from tests.sessions.kit import HEADER, LAYERS, K, make_token

SIZE = HEADER.chunk_size


def unobserved(token: Token) -> Token:
    return replace(token, experts=[None] * (LAYERS * K), weights=None, entropy=None, margin=None)


def run(number: int, gap: range) -> list[Token]:
    return [unobserved(make_token(i)) if i in gap else make_token(i) for i in range(number)]


def chunks(tokens: list[Token], instruments: Instruments | None = None) -> list[Chunk]:
    instruments = instruments or Instruments(HEADER)
    return [event for token in tokens for event in instruments.feed(token) if isinstance(event, Chunk)]


def test_a_chunk_with_a_gap_has_no_signals() -> None:
    gap = range(2 * SIZE + 1, 4 * SIZE + 1)
    found = chunks(run(7 * SIZE, gap))
    assert [chunk.tokens for chunk in found] == [SIZE] * 7
    whole = [not any(i in gap for i in range(chunk.first, chunk.last + 1)) for chunk in found]
    assert whole == [True, True, False, False, False, True, True]
    # The first chunk has no averages to compare with.
    assert [chunk.signals is not None for chunk in found[1:]] == whole[1:]


def test_one_unobserved_token_is_enough() -> None:
    found = chunks(run(3 * SIZE, range(2 * SIZE - 1, 2 * SIZE)))
    assert [chunk.signals is None for chunk in found[1:]] == [True, False]


def test_nothing_is_compared_across_a_gap() -> None:
    """The first token after the gap has no token before it: the overlap is a mean over the other tokens."""
    after = chunks(run(4 * SIZE, range(SIZE, 2 * SIZE)))[2]
    tokens = [make_token(i) for i in range(2 * SIZE, 3 * SIZE)]
    sets = [[set(token.experts[layer * K : (layer + 1) * K]) for layer in range(LAYERS)] for token in tokens]
    shared = [
        len(now & before) / len(now | before)
        for rows, others in zip(sets[1:], sets, strict=False)
        for now, before in zip(rows, others, strict=True)
    ]
    assert len(shared) == (SIZE - 1) * LAYERS
    assert after.signals is not None
    assert abs(after.signals.transition_prob - sum(shared) / len(shared)) < 1e-12


def test_unobserved_tokens_count_nothing() -> None:
    instruments = Instruments(HEADER)
    chunks(run(5 * SIZE, range(SIZE, 2 * SIZE)), instruments)
    frame = instruments.keyframe()
    assert frame.i == 5 * SIZE
    assert frame.rows_decode == frame.average_rows == [4 * SIZE] * LAYERS
    assert [sum(row) for row in frame.counts_decode] == [4 * SIZE * K] * LAYERS


def test_a_recording_may_begin_within_a_gap() -> None:
    gap = range(SIZE + 1, 2 * SIZE + 3)
    tokens = run(5 * SIZE, gap)
    cut = SIZE + 2
    first, fresh = Instruments(HEADER), Instruments(HEADER)
    chunks(tokens[:cut], first)
    frame = first.keyframe()
    assert frame.last_experts == [None] * LAYERS
    fresh.feed(frame)
    assert chunks(tokens[cut:], fresh) == chunks(tokens[cut:], first)


def test_a_prediction_that_is_no_number_is_none_in_the_file_and_in_the_instruments() -> None:
    """Half precision overflows in some models. The live run and its file agree, keyframes included."""
    nan = float("nan")
    tokens = run(2 * SIZE, range(0))
    tokens[SIZE + 1] = replace(tokens[SIZE + 1], logprob=nan, top_margin=nan, choice_gap=nan)
    live, written = Instruments(HEADER), Instruments(HEADER)
    found = chunks(tokens[:-1], live)
    assert from_json(to_json(live.keyframe())) == live.keyframe()
    found += chunks(tokens[-1:], live)
    assert found == chunks([from_json(to_json(token)) for token in tokens], written)
    margins = [token.top_margin for token in tokens[SIZE:] if token.top_margin == token.top_margin]
    assert len(margins) == SIZE - 1
    assert found[1].signals.top_margin == pytest.approx(sum(margins) / len(margins))
