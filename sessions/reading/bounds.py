"""The range of every number that an event may hold, so that a damaged one is refused and not computed with.

A range is as wide as what an engine, a machine or another recorder can really give: what moe-watch writes, it reads.
Lists in the units of the header (weights, entropy, margin) and the tables of keyframes depend on the model; they are
checked in `moe_watch.sessions.reading.validation`.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import log
from typing import Any

import msgspec

from moe_watch.routing.events import (
    LEAST_LOGPROB,
    BackendInfo,
    Change,
    Chunk,
    Continues,
    Cost,
    Fork,
    Header,
    Host,
    Keyframe,
    Marker,
    MemoryPressure,
    ModelInfo,
    OpenChunk,
    Perturbation,
    Pressures,
    Refused,
    RunWarning,
    Sampling,
    Signals,
    State,
    Teacher,
    Temperature,
    Token,
    Units,
    Vitals,
)

Bound = tuple[float, float]

MAX_INTEGER = 1 << 53
"""Larger integers are not exact in every JSON reader, and do not fit our arrays; larger numbers overflow sums."""
MAX_CELLS = 1 << 18
"""Layers × experts; the largest known model has 94 × 512. A bound, so that a header cannot ask for all memory."""
ABSENT_ID = -1
"""The id of a token whose recording does not have it."""
MAX_TOKEN_ID = (1 << 31) - 1
"""Engines hold token ids in 32 bits."""
MOST_SECONDS = 1e9
"""Of a run: 31 years."""
LEAST_UNIT = 1e-12
ROUNDING = 1e-9
"""By which a sum of shares may exceed 1."""

COUNT: Bound = (0, MAX_INTEGER)
SECONDS: Bound = (0, MOST_SECONDS)
SHARE: Bound = (-ROUNDING, 1 + ROUNDING)
SIGNED_SHARE: Bound = (-1 - ROUNDING, 1 + ROUNDING)
IDS: Bound = (ABSENT_ID, MAX_TOKEN_ID)
UNIT: Bound = (LEAST_UNIT, 1)
SPEED: Bound = (1e-6, 1e9)
"""Tokens per second, from one in eleven days on; and their ratio. They divide other numbers."""
ANY: Bound = (-MAX_INTEGER, MAX_INTEGER)
"""Of numbers that nothing is computed with; `verify` says which of them cannot be true."""
ENTROPY: Bound = (-ROUNDING, log(MAX_CELLS))
"""Over ln E, or in nats where the reference's mode has it so."""
CELSIUS: Bound = (-273.15, 100_000)
"""From absolute zero; drives without a limit report one of 65,261.85."""

BY_SHAPE = "checked against the model's shape in moe_watch.sessions.reading.validation"

BOUNDS: dict[type, dict[str, Bound | str]] = {
    Header: {"schema": COUNT, "schema_minor": COUNT, "chunk_size": (1, MAX_INTEGER)},
    Units: {"weights": UNIT, "entropy": UNIT, "margin": UNIT},
    ModelInfo: {
        "layers": COUNT,
        "experts": BY_SHAPE,
        "experts_per_token": BY_SHAPE,
        **dict.fromkeys(("parameters", "bytes", "expert_bytes", "non_expert_bytes"), ANY),
        **dict.fromkeys(("context_length", "trained_length"), ANY),
    },
    BackendInfo: {"threads": COUNT, "settings": ANY},
    Sampling: {"temperature": COUNT, "top_p": SHARE, "top_k": COUNT, "seed": COUNT},
    Host: {"cores": COUNT, "memory": COUNT},
    Teacher: {"tokens": COUNT},
    Continues: {"i": COUNT},
    Cost: {"tap_off": SPEED, "tap_on": SPEED, "ratio": SPEED, "interval": SPEED, "i": COUNT},
    Token: {
        "i": COUNT,
        "t": SECONDS,
        "id": IDS,
        "logprob": (LEAST_LOGPROB, 0),
        "top_margin": (0, 1),
        "choice_gap": (0, 1),
        **dict.fromkeys(("experts", "weights", "entropy", "margin", "probs"), BY_SHAPE),
    },
    Signals: {
        "router_entropy": ENTROPY,
        "delta_coherence": SIGNED_SHARE,
        **dict.fromkeys(("router_margin", "top_margin", "transition_prob", "slow_confidence"), SHARE),
        **dict.fromkeys(("proximity_meso", "proximity_macro", "coherence", "constraint_penalty"), SHARE),
    },
    Pressures: dict.fromkeys(("fast", "mid", "slow", "net", "w_fast", "w_mid", "w_slow"), SIGNED_SHARE),
    Chunk: {**dict.fromkeys(("index", "context", "first", "last", "tokens"), COUNT), "residual": SHARE},
    Perturbation: {"i": COUNT, "t": SECONDS, "ids": IDS},
    Temperature: {"celsius": CELSIUS, "high": CELSIUS},
    MemoryPressure: {"stalled": SHARE},
    Vitals: {
        "t": SECONDS,
        **dict.fromkeys(("memory_total", "memory_used", "memory_available"), COUNT),
        **dict.fromkeys(("swap_total", "swap_used", "process_memory", "worker_memory"), COUNT),
    },
    Marker: {"i": COUNT, "t": SECONDS},
    Refused: {"i": COUNT, "t": SECONDS},
    RunWarning: {"i": COUNT, "t": SECONDS},
    State: {"i": COUNT, "t": SECONDS, "count": COUNT},
    Change: {"i": COUNT, "t": SECONDS},
    Fork: {"i": COUNT, "t": SECONDS, "replicate": COUNT, "seed": COUNT, "injected": IDS, "generated": IDS},
    Keyframe: {
        **dict.fromkeys(("i", "chunks", "complete_chunks", "context", "context_chunks"), COUNT),
        **dict.fromkeys(("coherence", "residual"), SHARE),
        **dict.fromkeys(("rows_prefill", "rows_decode", "counts_prefill", "counts_decode"), BY_SHAPE),
        **dict.fromkeys(("average_rows", "average_meso", "average_macro", "phases", "last_experts"), BY_SHAPE),
    },
    OpenChunk: {
        **dict.fromkeys(("first", "last"), COUNT),
        **dict.fromkeys(("tokens", "sums", "observed", "counts"), BY_SHAPE),
        **dict.fromkeys(("start_rows", "start_meso", "start_macro"), BY_SHAPE),
    },
}
"""By struct and field. A list, a tuple or a dictionary has the range of each of its numbers."""


def out_of_bounds(value: msgspec.Struct) -> str:
    """Say which number of an event, at any depth, cannot be; empty if all can."""
    bounds = BOUNDS.get(type(value), {})
    for name in value.__struct_fields__:
        each = getattr(value, name)
        bound = bounds.get(name)
        if isinstance(bound, tuple):
            found = _outside(name, each, bound)
        elif bound is None:
            found = next(filter(None, map(out_of_bounds, _structs(each))), "")
        else:
            found = ""
        if found:
            return found
    return ""


def _structs(value: Any) -> Iterable[msgspec.Struct]:
    if isinstance(value, msgspec.Struct):
        return (value,)
    return (each for each in value if isinstance(each, msgspec.Struct)) if isinstance(value, list) else ()


def _outside(name: str, value: Any, bound: Bound) -> str:
    kind = type(value)
    if kind is int or kind is float:
        low, high = bound
        return "" if low <= value <= high else f"{name} is {short(value)}, where {_range(bound)} is possible"
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return next(filter(None, (_outside(name, each, bound) for each in value)), "")
    return ""


def _range(bound: Bound) -> str:
    """In words, without what is added for rounding."""
    low, high = (round(each) if abs(each - round(each)) <= ROUNDING else each for each in bound)
    return f"{low:g} to {high:g}"


def short(value: object) -> str:
    """A number for a message: integers may have thousands of digits."""
    text = str(value)
    return text if len(text) <= 24 else f"{len(text)} digits"
