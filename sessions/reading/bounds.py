"""Range of every number in an event. A number outside its range is refused before anything is computed from it.

A range includes every value that an engine, a machine or another recorder can give: moe-watch reads all that it writes.
Ranges of lists in the header's units (weights, entropy, margin) and of a keyframe's tables depend on the model;
`moe_watch.sessions.reading.validation` checks these.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import log

import msgspec

from moe_watch.routing.events import (
    LEAST_LOGPROB,
    BackendInfo,
    Change,
    Chunk,
    Clock,
    Continues,
    Cost,
    Fork,
    GpuMemory,
    Header,
    Host,
    Keyframe,
    Marker,
    MemoryPressure,
    ModelInfo,
    ModelMemory,
    OpenChunk,
    PauseConditions,
    Perturbation,
    Pressures,
    Refused,
    RunWarning,
    Sampling,
    Signals,
    State,
    Teacher,
    Temperature,
    TemplateSource,
    Token,
    Units,
    Vitals,
)
from moe_watch.routing.header import Buffer

Bound = tuple[float, float]
"""Smallest and largest value."""

MAX_INTEGER = 1 << 53
"""Larger integers are inexact in some JSON readers and do not fit in int64 arrays; larger numbers overflow sums."""
MAX_CELLS = 1 << 18
"""Maximum of layers × experts, so that a header cannot allocate all memory. The largest known model has 94 × 512."""
ABSENT_ID = -1
"""Id of a token that was recorded without one."""
MAX_TOKEN_ID = (1 << 31) - 1
"""Engines store token ids in 32 bits."""
MOST_SECONDS = 1e9
"""Maximum duration of a run: 31 years."""
LEAST_UNIT = 1e-12
"""Smallest unit of a header."""
ROUNDING = 1e-9
"""Tolerance by which a sum of shares may exceed 1."""

COUNT: Bound = (0, MAX_INTEGER)
SECONDS: Bound = (0, MOST_SECONDS)
SHARE: Bound = (-ROUNDING, 1 + ROUNDING)
SIGNED_SHARE: Bound = (-1 - ROUNDING, 1 + ROUNDING)
IDS: Bound = (ABSENT_ID, MAX_TOKEN_ID)
UNIT: Bound = (LEAST_UNIT, 1)
SPEED: Bound = (1e-6, 1e9)
"""Tokens per second, from one in eleven days, and ratios of these. They are divisors, so 0 is excluded."""
ANY: Bound = (-MAX_INTEGER, MAX_INTEGER)
"""Range of numbers that no computation uses; `verify` reports the impossible ones."""
ENTROPY: Bound = (-ROUNDING, log(MAX_CELLS))
"""Entropy over ln E; in nats in the reference's mode."""
CELSIUS: Bound = (-273.15, 100_000)
"""From absolute zero; drives without a temperature limit report 65,261.85."""
MEGAHERTZ: Bound = (0, 1e6)

BY_SHAPE = "checked against the model's shape in moe_watch.sessions.reading.validation"

BOUNDS: dict[type, dict[str, Bound | str]] = {
    Header: {"schema": COUNT, "schema_minor": COUNT, "chunk_size": (1, MAX_INTEGER)},
    Units: {"weights": UNIT, "entropy": UNIT, "margin": UNIT},
    ModelInfo: {
        "layers": COUNT,
        "experts": BY_SHAPE,
        **dict.fromkeys(("experts_per_token", "own_experts_per_token"), BY_SHAPE),
        "expert_ids": (0, MAX_CELLS),
        **dict.fromkeys(("parameters", "bytes", "expert_bytes", "non_expert_bytes"), ANY),
        **dict.fromkeys(("context_length", "trained_length"), ANY),
    },
    Buffer: {"bytes": COUNT},
    BackendInfo: {"threads": COUNT, "settings": ANY},
    Sampling: {"temperature": COUNT, "top_p": SHARE, "top_k": COUNT, "seed": COUNT},
    Host: {"cores": COUNT, "memory": COUNT},
    Teacher: {"tokens": COUNT},
    TemplateSource: {},
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
    Perturbation: {"i": COUNT, "t": SECONDS, "ids": IDS, "kept": COUNT, "cut": COUNT, "again": COUNT},
    Temperature: {"celsius": CELSIUS, "high": CELSIUS, "critical": CELSIUS},
    Clock: {"mhz": MEGAHERTZ, "max": MEGAHERTZ},
    GpuMemory: {"used": COUNT, "total": COUNT},
    PauseConditions: {"cool_down": CELSIUS},
    MemoryPressure: {"stalled": SHARE, "stalled_full": SHARE},
    ModelMemory: dict.fromkeys(("active", "peak", "cache"), COUNT),
    Vitals: {
        "t": SECONDS,
        **dict.fromkeys(("memory_total", "memory_used", "memory_available"), COUNT),
        **dict.fromkeys(("swap_total", "swap_used", "process_memory", "worker_memory"), COUNT),
        **dict.fromkeys(("swapped_in", "swapped_out", "worker_read", "worker_faults", "group_events"), COUNT),
    },
    Marker: {"i": COUNT, "t": SECONDS},
    Refused: {"i": COUNT, "t": SECONDS},
    RunWarning: {"i": COUNT, "t": SECONDS},
    State: {"i": COUNT, "t": SECONDS, "count": COUNT},
    Change: {
        **{"i": COUNT, "t": SECONDS, "rate": (0, MOST_SECONDS)},
        **dict.fromkeys(("mask", "experts_per_token"), BY_SHAPE),
    },
    Fork: {"i": COUNT, "t": SECONDS, "replicate": COUNT, "seed": COUNT, "injected": IDS, "generated": IDS},
    Keyframe: {
        **dict.fromkeys(("i", "chunks", "complete_chunks", "context", "context_chunks"), COUNT),
        **dict.fromkeys(("coherence", "residual"), SHARE),
        **dict.fromkeys(("rows_prefill", "rows_decode", "counts_prefill", "counts_decode"), BY_SHAPE),
        **dict.fromkeys(("average_rows", "average_meso", "average_macro", "phases", "last_experts"), BY_SHAPE),
        "mask": BY_SHAPE,
    },
    OpenChunk: {
        **dict.fromkeys(("first", "last"), COUNT),
        **dict.fromkeys(("tokens", "sums", "observed", "counts"), BY_SHAPE),
        **dict.fromkeys(("start_rows", "start_meso", "start_macro"), BY_SHAPE),
    },
}
"""Ranges by struct and field. In a list, tuple or dictionary, the range applies to each number."""


def out_of_bounds(value: msgspec.Struct) -> str:
    """Return a message for the first number of an event, at any depth, outside its range; empty if all are inside."""
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


def _structs(value: object) -> Iterable[msgspec.Struct]:
    if isinstance(value, msgspec.Struct):
        return (value,)
    return (each for each in value if isinstance(each, msgspec.Struct)) if isinstance(value, list) else ()


def _outside(name: str, value: object, bound: Bound) -> str:
    if type(value) is int or type(value) is float:
        low, high = bound
        return "" if low <= value <= high else f"{name} is {short(value)}, outside {_range(bound)}"
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return next(filter(None, (_outside(name, each, bound) for each in value)), "")
    return ""


def _range(bound: Bound) -> str:
    """Return the range in words, without the tolerance for rounding."""
    low, high = (round(each) if abs(each - round(each)) <= ROUNDING else each for each in bound)
    return f"{low:g} to {high:g}"


def short(value: object) -> str:
    """Return a number for a message; of an integer with thousands of digits, their count."""
    text = str(value)
    return text if len(text) <= 24 else f"{len(text)} digits"
