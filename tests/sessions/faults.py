"""Sessions with one fault each, made from recordings of the real pocket model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from moe_watch.routing.events import Change, Chunk, Event, Keyframe, Perturbation, State, Token, from_json, to_json
from moe_watch.routing.pressure.instruments import Instruments

RECORDED = Path(__file__).parent / "recorded"
"""130 tokens each, an injection after every fourth chunk of ten."""
BACKENDS = ("mlx", "llama.cpp")
K, EXPERTS, LAYERS = 2, 8, 6

Events = list[Event]
replace = msgspec.structs.replace


def recorded(backend: str = "mlx") -> Events:
    """A real session's events."""
    return [from_json(line) for line in path_of(backend).read_bytes().splitlines()]


def path_of(backend: str) -> Path:
    return RECORDED / f"pocket-{backend}.moe.jsonl"


def write(path: Path, events: Events) -> Path:
    path.write_bytes(b"".join(to_json(event) + b"\n" for event in events))
    return path


def derived_anew(events: Events) -> Events:
    """The same tokens with the chunks that they give, as a recorder would write them that knows of no fault."""
    instruments, anew = Instruments(events[0]), []
    for event in events:
        if not isinstance(event, Chunk | Keyframe):
            anew += [event, *instruments.feed(event)]
    return anew


def with_keyframe(events: Events, after: int = 60) -> Events:
    """The same with a keyframe in the middle, as there is one every 1,000 tokens."""
    instruments, found = Instruments(events[0]), []
    for event in events:
        found.append(event)
        instruments.feed(event)
        if isinstance(event, Chunk) and event.last >= after:
            after = 1 << 30
            found.append(instruments.keyframe())
    return found


def each_token(events: Events, change: Callable[[Token], Token]) -> Events:
    """The same with every token changed, and chunks to match."""
    return derived_anew([change(event) if isinstance(event, Token) else event for event in events])


def in_header(events: Events, **fields: object) -> Events:
    return [replace(events[0], **fields), *events[1:]]


def in_model(events: Events, **fields: object) -> Events:
    return in_header(events, model=replace(events[0].model, **fields))


def first(events: Events, kind: type, number: int = 0) -> int:
    """Return the position of the n-th event of a kind."""
    return [at for at, event in enumerate(events) if isinstance(event, kind)][number]


def _layers(token: Token, name: str, width: int, change: Callable[[np.ndarray], np.ndarray]) -> Token:
    rows = np.array(getattr(token, name)).reshape(LAYERS, width)
    return replace(token, **{name: change(rows).ravel().tolist()})


def flat_read(events: Events) -> Events:
    """The ids of a strided tensor [k, T] read as if it were contiguous: all experts, in the order of sorting."""
    tokens = [event for event in events if isinstance(event, Token)]
    rng = np.random.default_rng(1)
    sorted_ids = [[_all_sorted(row, rng) for row in _rows(token)] for token in tokens]
    flat = np.array(sorted_ids).transpose(1, 0, 2).reshape(LAYERS, -1)[:, : len(tokens) * K]
    wrong = iter(flat.reshape(LAYERS, len(tokens), K).transpose(1, 0, 2))
    return each_token(events, lambda token: replace(token, experts=next(wrong).ravel().tolist()))


def _rows(token: Token) -> list[list[int | None]]:
    return np.array(token.experts).reshape(LAYERS, K).tolist()


def _all_sorted(row: list[int | None], rng: np.random.Generator) -> list[int]:
    """All experts, those of a row first; any order where there is none."""
    selected = [expert for expert in row if expert is not None]
    return [*selected, *rng.permutation([expert for expert in range(EXPERTS) if expert not in selected])]


def _scaled(values: list[int | None], factor: float) -> list[int | None]:
    return [None if value is None else min(10_000, round(factor * value)) for value in values]


def constant(events: Events) -> Events:
    """The buffer of one token is read again for every other."""
    first_token = events[first(events, Token)]
    return each_token(events, lambda token: replace(token, experts=first_token.experts))


def lost_context(events: Events) -> Events:
    """The model sees nothing but the last token: its routing depends on that alone."""
    seen: dict[int, Token] = {}

    def alone(token: Token) -> Token:
        before = seen.setdefault(token.id % 20, token)
        routing = {name: getattr(before, name) for name in ("experts", "weights", "entropy", "margin")}
        return replace(token, id=token.id % 20, **routing)

    unforced = [event for event in events if not isinstance(event, Perturbation)]
    return each_token(unforced, alone)


def not_renormalised(events: Events) -> Events:
    """The probabilities of the selected experts in place of their weights."""
    return each_token(
        events, lambda token: replace(token, weights=[each and round(0.8 * each) for each in token.weights])
    )


def weights_of_others(events: Events) -> Events:
    """Weights in the order of ids, experts in that of probability."""
    return each_token(events, lambda token: _layers(token, "weights", K, lambda rows: rows[:, ::-1]))


def equal_weights(events: Events) -> Events:
    """Every weight 1 / k."""
    return each_token(events, lambda token: replace(token, weights=[5000] * (LAYERS * K)))


def entropy_of_two(events: Events) -> Events:
    """Entropy divided by ln 2 in place of ln 8, and cut off at 1."""
    return each_token(
        events, lambda token: replace(token, entropy=[each and min(10_000, 3 * each) for each in token.entropy])
    )


def missing_layer(events: Events) -> Events:
    """The third layer is not hooked."""

    def without(token: Token) -> Token:
        fields = {}
        for name, width in (("experts", K), ("weights", K), ("entropy", 1), ("margin", 1)):
            values = list(getattr(token, name))
            values[2 * width : 3 * width] = [None] * width
            fields[name] = values
        return replace(token, **fields)

    return each_token(events, without)


def with_probabilities(events: Events, total: int) -> Events:
    """Uniform probabilities that sum to this many steps, beside entropies and margins of others."""
    probabilities = [total // EXPERTS] * (LAYERS * EXPERTS)
    return each_token(events, lambda token: replace(token, probs=probabilities))


def repeated(events: Events) -> Events:
    """One token is written twice, and all that follow count on."""
    at = first(events, Token, 40)
    twice = [*events[: at + 1], events[at], *events[at + 1 :]]
    tokens, anew = 0, []
    for event in twice:
        if isinstance(event, Token):
            event = replace(event, i=tokens)
            tokens += 1
        elif isinstance(event, Perturbation | State | Change):
            event = replace(event, i=tokens)
        anew.append(event)
    return derived_anew(anew)


def without(events: Events, kind: type, number: int) -> Events:
    at = first(events, kind, number)
    return events[:at] + events[at + 1 :]


def changed(events: Events, kind: type, number: int, **fields: object) -> Events:
    at = first(events, kind, number)
    return [*events[:at], replace(events[at], **fields), *events[at + 1 :]]


def keyframe_counts(events: Events) -> Events:
    """A keyframe's counts that do not sum to its rows × k."""
    framed = with_keyframe(events)
    frame = framed[first(framed, Keyframe)]
    counts = [[row[0] + 3, *row[1:]] for row in frame.counts_decode]
    return changed(framed, Keyframe, 0, counts_decode=counts)


def untapped(events: Events) -> Events:
    """The tap is off, and routing goes on."""
    at = first(events, Token, 30)
    return [*events[:at], Change(i=30, t=0.0, tap=False), *events[at:]]


def unrouted(events: Events) -> Events:
    """One token has no routing, and nobody switched the tap off."""
    at = first(events, Token, 30)
    absent = replace(events[at], experts=[None] * (LAYERS * K), weights=None, entropy=None, margin=None)
    return derived_anew([*events[:at], absent, *events[at + 1 :]])


def _signal(events: Events, number: int) -> Events:
    chunk = events[first(events, Chunk, number)]
    return changed(events, Chunk, number, signals=replace(chunk.signals, router_entropy=0.5))


FAULTS: dict[str, tuple[Callable[[Events], Events], str]] = {
    "strided tensor read flat": (flat_read, "uniform usage"),
    "one buffer for all tokens": (constant, "constant usage"),
    "context lost": (lost_context, "context"),
    "weights not renormalised": (not_renormalised, "weights"),
    "weights of other experts": (weights_of_others, "order of weights"),
    "weights without probabilities": (equal_weights, "margin and weights"),
    "entropy over the wrong logarithm": (entropy_of_two, "entropy and margin"),
    "a layer not hooked": (missing_layer, "missing layers"),
    "probabilities of others": (lambda events: with_probabilities(events, 10_000), "probabilities"),
    "a token twice": (repeated, "repeated tokens"),
    "a token missing": (lambda events: without(events, Token, 50), "missing tokens"),
    "the beginning missing": (lambda events: [events[0], *events[30:]], "missing tokens"),
    "events dropped": (lambda e: [*e[:9], State(state="dropped", i=8, t=0.0, count=5), *e[9:]], "dropped"),
    "time runs backwards": (lambda events: changed(events, Token, 40, t=0.0001), "time"),
    "a chunk of other numbers": (lambda events: _signal(events, 3), "chunks"),
    "a chunk missing": (lambda events: without(events, Chunk, 3), "chunks"),
    "a keyframe of other numbers": (lambda e: changed(with_keyframe(e), Keyframe, 0, residual=0.1), "keyframes"),
    "counts without rows": (keyframe_counts, "counts"),
    "an injected token replaced": (lambda e: changed(e, Perturbation, 0, ids=[1, 2]), "injection"),
    "an injection elsewhere": (lambda e: changed(e, Perturbation, 0, i=3), "injection"),
    "routing without tap": (untapped, "tap"),
    "tap without routing": (unrouted, "tap"),
    "weights captured and absent": (lambda e: each_token(e, lambda token: replace(token, weights=None)), "captured"),
    "weights there and not captured": (lambda e: in_header(e, capture=["experts", "entropy", "margin"]), "captured"),
    "no log-probabilities": (lambda e: each_token(e, lambda token: replace(token, logprob=None)), "captured"),
    "experts larger than the model": (lambda e: in_model(e, bytes=1000), "header"),
    "sizes of other layers": (lambda e: in_model(e, expert_bytes=[1]), "header"),
    "negative size": (lambda e: in_model(e, parameters=-1), "header"),
    "no date": (lambda e: in_header(e, created="yesterday"), "header"),
}
"""What is wrong, how to make it so, and the check that finds it."""
