from __future__ import annotations

import json
from contextlib import contextmanager

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_watch.routing.events import ModelInfo, from_json, to_json
from moe_watch.sessions.reading.decoding import token_decoder
from moe_watch.sessions.reading.validation import EventChecker, ShapeError
from tests.sessions.kit import EXPERTS, HEADER, LAYERS, K, make_token, tokens

decode = token_decoder(HEADER)


def line_with(**fields):
    return json.dumps(json.loads(to_json(make_token(0))) | fields).encode()


def test_gives_what_reading_without_checks_gives():
    for token in tokens(50):
        assert decode(to_json(token)) == token


def test_fields_that_are_left_out():
    line = (
        b'{"event":"token","i":0,"t":0,"phase":"decode","source":"generated","id":7,"text":"x","experts":[0,1,0,1,0,1]}'
    )
    assert decode(line) == from_json(line)


FAULTS = {
    "index": {"i": -1},
    "time": {"t": -0.5},
    "id": {"id": -2},
    "log-probability": {"logprob": 0.5},
    "margin above one": {"top_margin": 1.5},
    "gap below zero": {"choice_gap": -0.1},
    "expert too large": {"experts": [0, 1, 0, 1, 0, 5]},
    "expert below zero": {"experts": [0, 1, 0, 1, 0, -1]},
    "an expert too few": {"experts": [0, 1, 0, 1, 0]},
    "no experts": {"experts": []},
    "layer without experts": {"experts": [0, 1, None, None, 0, 1]},
    "weights": {"weights": [1] * 7},
    "entropy": {"entropy": [10001, 0, 0]},
    "margin": {"margin": [-1, 0, 0]},
    "probabilities": {"probs": [0] * 14},
    "kind": {"event": "chunk"},
}


@pytest.mark.parametrize("fields", FAULTS.values(), ids=FAULTS)
def test_leaves_what_is_not_surely_sound_to_others(fields):
    with pytest.raises(msgspec.DecodeError):
        decode(line_with(**fields))


def test_experts_may_be_missing_only_where_a_model_has_none():
    line = b'{"event":"token","i":0,"t":0,"phase":"decode","source":"generated","id":7,"text":"x"}'
    with pytest.raises(msgspec.DecodeError):
        decode(line)
    dense = msgspec.structs.replace(
        HEADER, model=ModelInfo(name="d", architecture="d", layers=[], experts=0, experts_per_token=0, gate="none")
    )
    assert token_decoder(dense)(line) == from_json(line)


@contextmanager
def suppress_repeated_experts():
    try:
        yield
    except ShapeError as error:
        if "selects an expert twice" not in str(error):
            raise


def rows(length, most):
    """Mostly of the right length, and of numbers that are sometimes too large or too small."""
    right = st.lists(st.none() | st.integers(-1, most + 1), min_size=length, max_size=length)
    return st.none() | right | right | st.lists(st.integers(0, most), max_size=length + 2)


NUMBERS = st.none() | st.integers(-2, 10_002) | st.floats(-2, 2)
FIELDS = {
    **dict.fromkeys(("i", "t", "id", "logprob", "top_margin", "choice_gap"), NUMBERS),
    "experts": rows(LAYERS * K, EXPERTS - 1),
    "weights": rows(LAYERS * K, 10_000),
    "entropy": rows(LAYERS, 10_000),
    "margin": rows(LAYERS, 10_000),
    "probs": rows(LAYERS * EXPERTS, 10_000),
}
CHANGES = st.sampled_from([*FIELDS]).flatmap(lambda name: st.tuples(st.just(name), FIELDS[name]))


@given(st.lists(CHANGES, max_size=2).map(dict))
def test_whatever_it_takes_the_checker_takes_too(changes):
    try:
        token = decode(line_with(**changes))
    except msgspec.DecodeError:
        return
    with suppress_repeated_experts():
        EventChecker(HEADER).check(token)
