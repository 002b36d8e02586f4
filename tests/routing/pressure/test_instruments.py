from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest

from moe_watch.routing.arrays import unpacked
from moe_watch.routing.events import Chunk, Header, Keyframe, Perturbation, State, Token
from moe_watch.routing.pressure.instrument_state import TOGETHER
from moe_watch.routing.pressure.instruments import KEYFRAME_TOKENS, Instruments
from moe_watch.sessions.reading.recompute import agree
from tests.routing.plain_instruments import PlainRun


def flat(value, path=""):
    """Yield nested numbers as (path, number) pairs."""
    if isinstance(value, dict):
        return [pair for key, inner in value.items() for pair in flat(inner, f"{path}.{key}")]
    if isinstance(value, list):
        return [pair for at, inner in enumerate(value) for pair in flat(inner, f"{path}[{at}]")]
    return [(path, value)]


def assert_same_numbers(left, right):
    ours, theirs = flat(msgspec.to_builtins(left)), flat(msgspec.to_builtins(right))
    assert [path for path, _ in ours] == [path for path, _ in theirs]
    for (path, a), (_, b) in zip(ours, theirs, strict=True):
        assert a == (pytest.approx(b, abs=1e-12) if isinstance(b, float) else b), path


def derive(events, **options):
    instruments = Instruments(events[0], **options)
    return [derived for event in events[1:] for derived in instruments.feed(event)]


def test_golden_chunks_are_recomputed(golden_events):
    recorded = [event for event in golden_events if isinstance(event, Chunk)]
    derived = derive([event for event in golden_events if not isinstance(event, Chunk | Keyframe)])
    assert len(derived) == 3
    for ours, theirs in zip(derived, recorded, strict=True):
        assert_same_numbers(ours, theirs)


def test_golden_keyframe_is_the_state_at_its_place(golden_events):
    at = next(n for n, event in enumerate(golden_events) if isinstance(event, Keyframe))
    instruments = Instruments(golden_events[0])
    for event in golden_events[1:at]:
        instruments.feed(event)
    assert agree(instruments.keyframe(), golden_events[at])


def make_run(tokens, *, layers=3, experts=6, k=2, chunk_size=5, seed=11, mode="measured-v1"):
    """Return a header and seeded random tokens; the first four are the prompt."""
    rng = np.random.default_rng(5)
    model = {
        "name": "m",
        "architecture": "a",
        "layers": list(range(layers)),
        "experts": experts,
        "experts_per_token": k,
        "gate": "top_k_softmax",
    }
    header = {
        "event": "session",
        "created": "2026-01-01T00:00:00Z",
        "moe_watch": "0",
        "model": model,
        "prompt": "",
        "backend": {"name": "x", "version": "0", "device": "cpu", "tap": "none"},
        "capture": [],
        "sampling": {"seed": seed},
        "chunk_size": chunk_size,
        "pressure": mode,
    }
    lines = []
    for i in range(tokens):
        weights = rng.integers(1, 9999, layers)
        line = {
            "event": "token",
            "i": i,
            "t": i / 10,
            "phase": "prefill" if i < 4 else "decode",
            "source": "prompt" if i < 4 else "generated",
            "id": i,
            "text": "x",
            "experts": [int(e) for _ in range(layers) for e in rng.permutation(experts)[:k]],
            "weights": [int(v) for w in weights for v in (w, 10000 - w)],
            "entropy": rng.integers(0, 10001, layers).tolist(),
            "margin": rng.integers(0, 10001, layers).tolist(),
        }
        if i >= 4:
            line |= {"logprob": -1.0, "top_margin": round(float(rng.random()), 4), "choice_gap": 0.25}
        lines.append(line)
    return msgspec.convert(header, Header), lines


def tokens_of(lines):
    return [msgspec.convert(line, Token) for line in lines]


def test_random_routing_gives_the_plain_computations_numbers():
    header, lines = make_run(204)
    plain = PlainRun(3, 6, 2, 5, 11)
    for line in lines:
        plain.add(line)
    derived = derive([header, *tokens_of(lines)])
    assert len(derived) == len(plain.chunks) == 40
    for ours, theirs in zip(derived, plain.chunks, strict=True):
        theirs = {**theirs, "warm_up": theirs["index"] < 10}
        assert_same_numbers(ours, msgspec.convert(theirs, Chunk))


def with_fewer(lines, k):
    """Return the same tokens, with only the first experts of a row in layers that select fewer than two."""
    kept = [2 * layer + rank for layer, chosen in enumerate(k) for rank in range(chosen)]
    return [line | {name: [line[name][at] for at in kept] for name in ("experts", "weights")} for line in lines]


K_BY_LAYER = [2, 1, 2]


def by_layer(number, **options):
    header, lines = make_run(number, **options)
    model = msgspec.structs.replace(header.model, experts_per_token=K_BY_LAYER)
    return msgspec.structs.replace(header, schema=2, model=model), with_fewer(lines, K_BY_LAYER)


def test_layers_that_select_different_numbers_of_experts_give_the_plain_computations_numbers():
    header, lines = by_layer(204)
    plain = PlainRun(3, 6, K_BY_LAYER, 5, 11)
    for line in lines:
        plain.add(line)
    derived = derive([header, *tokens_of(lines)])
    assert len(derived) == len(plain.chunks) == 40
    for ours, theirs in zip(derived, plain.chunks, strict=True):
        assert_same_numbers(ours, msgspec.convert({**theirs, "warm_up": theirs["index"] < 10}, Chunk))


@pytest.mark.parametrize("cut", [104, 106])
def test_a_keyframe_of_layers_that_select_different_numbers_lets_fresh_instruments_go_on(cut):
    header, lines = by_layer(160)
    tokens = tokens_of(lines)
    whole, resumed = Instruments(header), Instruments(header)
    for token in tokens[:cut]:
        whole.feed(token)
    frame = whole.keyframe()
    assert [len(row) for row in frame.last_experts] == K_BY_LAYER
    resumed.feed(msgspec.json.decode(msgspec.json.encode(frame), type=Keyframe))
    for token in tokens[cut:]:
        assert resumed.feed(token) == whole.feed(token)
    assert resumed.keyframe() == whole.keyframe()


@pytest.mark.parametrize("cut", [104, 106])
def test_a_keyframe_lets_fresh_instruments_go_on(cut):
    """At a chunk's end (104 = 4 + 20 × 5) and in the middle of one."""
    header, lines = make_run(160)
    tokens = tokens_of(lines)
    whole = Instruments(header)
    for token in tokens[:cut]:
        whole.feed(token)
    resumed = Instruments(header)
    assert resumed.feed(msgspec.json.decode(msgspec.json.encode(whole.keyframe()), type=Keyframe)) == []
    for token in tokens[cut:]:
        assert resumed.feed(token) == whole.feed(token)
    assert resumed.keyframe() == whole.keyframe()


@pytest.mark.parametrize(("chunk_size", "places"), [(64, [708, 1412]), (240, [724, 1444]), (5000, [900, 1800])])
def test_keyframes_come_regularly_at_the_end_of_a_chunk_that_is_not_too_far(chunk_size, places):
    header, lines = make_run(2 * KEYFRAME_TOKENS + 410, chunk_size=chunk_size, layers=1)
    keyframes = [event for event in derive([header, *tokens_of(lines)]) if isinstance(event, Keyframe)]
    assert [frame.i for frame in keyframes] == places
    assert all((frame.open_chunk is None) == (chunk_size < 5000) for frame in keyframes)


@pytest.mark.parametrize(
    "cutter",
    [
        Perturbation(i=11, t=1.0, text="x", ids=[1], form="raw", source="key", at_once=True),
        State(state="finished", i=11, t=1.0, why="user"),
        State(state="fresh_context", i=11, t=1.0),
    ],
)
def test_a_chunk_cut_short_is_partial_and_counts_no_warm_up(cutter):
    header, lines = make_run(20)
    tokens = tokens_of(lines)
    derived = derive([header, *tokens[:11], cutter, *tokens[11:16]])
    assert [(chunk.tokens, chunk.partial) for chunk in derived] == [(5, False), (2, True), (5, False)]
    assert [chunk.index for chunk in derived] == [0, 1, 2]


def test_the_first_token_of_a_fresh_context_has_no_token_before_it():
    header, lines = make_run(16)
    tokens = tokens_of(lines)
    fresh = State(state="fresh_context", i=9, t=1.0)
    through, anew = derive([header, *tokens]), derive([header, *tokens[:9], fresh, *tokens[9:]])
    assert anew[0] == through[0]
    assert anew[1].signals.transition_prob != through[1].signals.transition_prob


def test_ten_complete_chunks_are_warm_up():
    header, lines = make_run(4 + 5 * 12)
    assert [chunk.warm_up for chunk in derive([header, *tokens_of(lines)])] == [True] * 10 + [False] * 2


def test_pressure_is_absent_where_a_signal_was_not_recorded():
    header, lines = make_run(9)
    for line in lines:
        del line["entropy"]
    (chunk,) = derive([header, *tokens_of(lines)])
    assert chunk.signals is None
    assert chunk.pressures is None


def test_pressure_is_absent_while_the_averages_are_empty():
    header, lines = make_run(9)
    (chunk,) = derive([header, *tokens_of(lines[4:])])
    assert chunk.pressures is None


def test_the_reference_mode_reads_the_last_token_of_the_last_layer():
    header, lines = make_run(9)
    (chunk,) = derive([header, *tokens_of(lines)], mode="chronomoe-v1")
    last = json.loads(json.dumps(lines[-1]))
    assert chunk.signals.router_entropy == pytest.approx(last["entropy"][-1] * 1e-4 * np.log(6))
    assert chunk.signals.router_margin == pytest.approx(last["margin"][-1] * 1e-4)
    assert chunk.pressures.mid == pytest.approx(0.25519, abs=5e-6)


@pytest.mark.parametrize("mode", ["measured-v1", "chronomoe-v1"])
def test_a_chunk_cut_right_behind_a_keyframe_has_no_signals_where_its_last_token_is_needed(mode):
    header, lines = make_run(106, mode=mode)
    whole, resumed = Instruments(header), Instruments(header)
    for token in tokens_of(lines):
        whole.feed(token)
    resumed.feed(whole.keyframe())
    end = State(state="finished", i=106, t=11.0, why="user")
    (cut,) = resumed.feed(end)
    (expected,) = whole.feed(end)
    assert (cut.first, cut.last, cut.tokens, cut.partial) == (104, 105, 2, True)
    if mode == "measured-v1":
        assert cut == expected
    else:
        assert expected.signals is not None
        assert (cut.signals, cut.pressures) == (None, None)


@pytest.mark.parametrize("mode", ["measured-v1", "chronomoe-v1"])
def test_keyframes_can_be_left_out(mode):
    header, lines = make_run(KEYFRAME_TOKENS + 410, layers=1, mode=mode)
    derived, without = (derive([header, *tokens_of(lines)], keyframes=keyframes) for keyframes in (True, False))
    assert any(isinstance(event, Keyframe) for event in derived)
    assert without == [event for event in derived if not isinstance(event, Keyframe)]
    with pytest.raises(ValueError, match="without keyframes"):
        Instruments(header, keyframes=False).keyframe()


def with_gaps(lines, *, layers=3, k=2):
    """Yield the same run with injected tokens, and without some of the optional fields of a token here and there."""
    rng = np.random.default_rng(6)
    for line in lines[2 * TOGETHER :]:
        kind = rng.integers(12)
        if kind == 0:
            line |= {"experts": [None] * (layers * k), "weights": None, "entropy": None, "margin": None}
        elif kind == 1:
            line["experts"][:k] = line["weights"][:k] = [None] * k
            line["entropy"][0] = line["margin"][0] = None
        elif kind == 2:
            line["weights"] = None
        elif kind == 3:
            line |= {"entropy": None, "top_margin": None}
        elif kind == 4:
            line |= {"phase": "prefill", "source": "injected"}
    return lines


@pytest.mark.parametrize("mode", ["measured-v1", "chronomoe-v1"])
@pytest.mark.parametrize(("layers", "chunk_size"), [(3, 5), (3, 3 * TOGETHER), (40, 20)])
def test_it_makes_no_difference_how_many_tokens_are_computed_with_at_once(mode, layers, chunk_size):
    header, lines = make_run(10 * TOGETHER, layers=layers, chunk_size=chunk_size, mode=mode)
    for line in lines[: TOGETHER + 3]:
        line |= {"phase": "prefill", "source": "prompt"}
    tokens = tokens_of(lines[: 5 * TOGETHER] + with_gaps(lines[5 * TOGETHER :], layers=layers))
    fresh = [State(state="fresh_context", i=i, t=1.0) for i in (TOGETHER + 3, 200)]
    events = [*tokens[: TOGETHER + 3], fresh[0], *tokens[TOGETHER + 3 : 200], fresh[1], *tokens[200:]]
    together, alone = Instruments(header), Instruments(header)
    chunks = []
    for event in events:
        derived = together.feed(event)
        assert alone.feed(event) == derived
        alone.keyframe()  # needs all tokens so far
        chunks += derived
    assert together.keyframe() == alone.keyframe()
    assert {chunk.signals is None for chunk in chunks if isinstance(chunk, Chunk)} == {True, False}


def test_layers_that_were_not_computed_leave_averages_and_overlaps_as_they_are():
    header, lines = make_run(180, chunk_size=1000)
    lines = with_gaps(lines)
    plain, before, overlaps = PlainRun(3, 6, 2, 5, 11), None, []
    for line in lines:
        sets = plain.sets(line)
        plain.average(sets)
        if line["phase"] == "decode":
            pairs = zip(sets, before, strict=True)
            overlaps += [plain.overlap(now, then) for now, then in pairs if None not in now + then]
        before = sets
    instruments = Instruments(header)
    for token in tokens_of(lines):
        instruments.feed(token)
    frame = instruments.keyframe()
    assert len(set(frame.average_rows)) > 1
    assert frame.average_rows == plain.rows
    for ours, half in ((frame.average_meso, 50), (frame.average_macro, 500)):
        assert unpacked(ours) == pytest.approx(np.ravel(plain.averages[half]), abs=1e-12)
    assert frame.open_chunk.observed["overlap"] == len(overlaps)
    assert frame.open_chunk.sums["overlap"] == pytest.approx(sum(overlaps))


def test_a_layer_that_is_never_computed_changes_nothing_about_the_others():
    (whole, lines), (without, others) = make_run(20), make_run(20, layers=2)
    for line, other in zip(lines, others, strict=True):
        other |= {name: line[name][: len(other[name])] for name in ("experts", "weights", "entropy", "margin")}
        line["experts"][4:] = line["weights"][4:] = [None, None]
        line["entropy"][2] = line["margin"][2] = None
        line["top_margin"] = other["top_margin"] = 0.5
    chunks = list(zip(derive([whole, *tokens_of(lines)]), derive([without, *tokens_of(others)]), strict=True))
    assert len(chunks) == 3
    for ours, theirs in chunks:
        unlike = {"coherence": 0.0, "delta_coherence": 0.0}  # phases begin at random in every layer
        assert msgspec.structs.replace(ours.signals, **unlike) == msgspec.structs.replace(theirs.signals, **unlike)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"experts": [0, 1, 2, 3, 4, 6]}, "token 6 selects expert 6 of 6"),
        ({"experts": [0, 1, 2, 3]}, "cannot reshape"),
        ({"weights": [1, 2, 3, 4]}, "token 6 has 4 weights for 6 experts"),
    ],
)
def test_a_token_of_another_model_is_refused_before_it_is_taken_in(wrong, error):
    header, lines = make_run(12)
    tokens = tokens_of(lines)
    instruments, sound = Instruments(header), Instruments(header)
    for token in tokens[:6]:
        assert instruments.feed(token) == sound.feed(token) == []
    with pytest.raises((IndexError, ValueError), match=error):
        instruments.feed(msgspec.structs.replace(tokens[6], **wrong))
    assert instruments.keyframe() == sound.keyframe()
