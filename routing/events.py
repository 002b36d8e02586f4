"""The events a run consists of, exactly as they stand in a session file and on the worker's pipe.

One run is a `Header` followed by events in the order in which they happened. Everything that is shown
or computed anywhere is a function of these. Shapes: `L` MoE layers, `E` experts, `k` experts per token.
Where `k` differs by layer, `L·k` is its sum over layers.
Quantities that could not be had are absent (`None`), never zero.

Weights, entropies and margins are integers in the header's `units`: they are rounded here, once, so that
a live run and its replay compute with the same numbers. Fixed names: docs/session-format.md.

What the header holds is defined in `moe_watch.routing.header` and imported from here like the rest.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from moe_watch.routing.header import SCHEMA as SCHEMA
from moe_watch.routing.header import SCHEMA_BY_LAYER as SCHEMA_BY_LAYER
from moe_watch.routing.header import SCHEMA_MINOR as SCHEMA_MINOR
from moe_watch.routing.header import BackendInfo as BackendInfo
from moe_watch.routing.header import Continues as Continues
from moe_watch.routing.header import Cost as Cost
from moe_watch.routing.header import Header as Header
from moe_watch.routing.header import Host as Host
from moe_watch.routing.header import ModelInfo as ModelInfo
from moe_watch.routing.header import Sampling as Sampling
from moe_watch.routing.header import Teacher as Teacher
from moe_watch.routing.header import Units as Units

Phase = Literal["prefill", "decode"]
TokenSource = Literal["prompt", "injected", "generated"]
PerturbationForm = Literal["raw", "turn"]
PerturbationSource = Literal["key", "schedule", "fork"]
RunState = Literal["paused", "resumed", "fresh_context", "finished", "error", "dropped"]
ForkArm = Literal["none", "neutral", "text"]
PauseReason = Literal["fast_instability", "negative_pressure", "multistep_chunk_complete"]

LEAST_LOGPROB = -(1 << 18)
"""Logits in half precision lie within ±65,504, so that no log-probability is below −131,008 − ln V. Less is a damaged
model's or file's, and absent."""


class _Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="event"):
    """Base of everything that follows the header."""


class Token(_Event, tag="token", frozen=True, kw_only=True, gc=False):
    """One token, with the routing of the forward pass whose input it is.

    `logprob`, `top_margin` and `choice_gap` are those of the pass that predicted it, at temperature 1.
    """

    i: int
    """Index in the run, 0-based, prompt and injected tokens included."""
    t: float
    """Seconds since the run began."""
    phase: Phase
    source: TokenSource
    id: int
    text: str
    logprob: float | None = None
    top_margin: float | None = None
    choice_gap: float | None = None
    would_stop: bool = False
    """The model chose end-of-text here, and was told to go on."""
    experts: list[int | None] = []
    """Flat [L·k], by router probability descending; null for layers the engine did not compute."""
    weights: list[int | None] | None = None
    """Flat [L·k], in `units.weights`."""
    entropy: list[int | None] | None = None
    """[L], router entropy over ln E, in `units.entropy`."""
    margin: list[int | None] | None = None
    """[L], first minus second router probability, in `units.margin`."""
    probs: list[int | None] | None = None
    """Flat [L·E], only on request, in `units.weights`."""


class Signals(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What pressure is computed from: means over a chunk's decode tokens and all MoE layers."""

    router_entropy: float
    router_margin: float
    top_margin: float
    transition_prob: float
    proximity_meso: float
    proximity_macro: float
    slow_confidence: float
    coherence: float
    delta_coherence: float
    constraint_penalty: float = 0.0


class Pressures(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The pressures of one chunk and the weights that made the net."""

    fast: float
    mid: float
    slow: float
    net: float
    w_fast: float
    w_mid: float
    w_slow: float


class Chunk(_Event, tag="chunk", frozen=True, kw_only=True, gc=False):
    """A completed stretch of decode tokens."""

    index: int
    context: int | None = None
    """Number of its context in the run, from 0; None in modes that do not begin again with a context."""
    first: int
    """Index `i` of its first decode token."""
    last: int
    """Index `i` of its last decode token."""
    tokens: int
    """How many decode tokens it holds; fewer than the chunk size if `partial`."""
    partial: bool = False
    warm_up: bool = False
    signals: Signals | None = None
    """None where a signal it needs was not recorded."""
    pressures: Pressures | None = None
    residual: float = 0.0
    pause: PauseReason | None = None


class Perturbation(_Event, tag="perturbation", frozen=True, kw_only=True):
    """Text put into the context from outside; its tokens follow with `source` injected."""

    i: int
    """Index of the first injected token."""
    t: float
    text: str
    ids: list[int]
    form: PerturbationForm
    source: PerturbationSource
    at_once: bool = False


class Temperature(msgspec.Struct, frozen=True, kw_only=True):
    """One sensor's reading."""

    sensor: str
    celsius: float
    high: float | None = None


class MemoryPressure(msgspec.Struct, frozen=True, kw_only=True):
    """How hard the system works to find memory, from one named source."""

    level: Literal["ok", "warning", "critical"]
    source: str
    stalled: float | None = None
    """Share of the last 10 s in which some task waited for memory, 0..1 (Linux PSI `some avg10`)."""


class Vitals(_Event, tag="vitals", frozen=True, kw_only=True):
    """The machine at one moment. Bytes and degrees Celsius."""

    t: float
    memory_total: int | None = None
    memory_used: int | None = None
    memory_available: int | None = None
    swap_total: int | None = None
    swap_used: int | None = None
    process_memory: int | None = None
    """Resident memory of the dashboard."""
    worker_memory: int | None = None
    """Resident memory of the process that runs the model."""
    pressure: MemoryPressure | None = None
    temperatures: list[Temperature] = []
    throttling: bool | None = None
    unavailable: dict[str, str] = {}
    """Why a quantity is absent, by its field name; why one sensor of several is left out, by the sensor's."""


class Marker(_Event, tag="marker", frozen=True, kw_only=True):
    """A note that the user made."""

    i: int
    t: float
    note: str = ""


class Refused(_Event, tag="refused", frozen=True, kw_only=True):
    """A command that was not carried out, where it would have taken effect. The run goes on without it."""

    i: int
    """Tokens so far."""
    t: float
    command: str
    """`start`, `inject`, `sampling`, `tap`, `fork`, `load` or `measure`; later versions may have more."""
    why: str
    """One line for the user."""


class RunWarning(_Event, tag="warning", frozen=True, kw_only=True):
    """A fact about the run's numbers that was found out while it ran, such as a gate that does not hold."""

    i: int
    """Tokens so far."""
    t: float
    text: str
    """One line for the user."""


class State(_Event, tag="state", frozen=True, kw_only=True):
    """What became of the run."""

    state: RunState
    i: int
    """Tokens so far."""
    t: float
    why: str | None = None
    """`eos`, `length`, `context`, `user`, `chunk`, …"""
    message: str | None = None
    count: int | None = None
    """For `dropped`: how many events were lost."""


Table = bytes | list[list[float]]
"""[L][E] numbers: 64-bit floats, little-endian, row by row, which are base64 in JSON; lists in files of schema 1.0."""


class OpenChunk(msgspec.Struct, frozen=True, kw_only=True):
    """What a chunk that has begun and not ended has gathered so far."""

    first: int
    last: int
    tokens: int
    sums: dict[str, float]
    """Running sums by signal name, in the units of the token events."""
    observed: dict[str, int]
    """How many values are in each sum."""
    counts: list[list[int]]
    """[L][E] selections."""
    start_rows: list[int]
    start_meso: Table
    start_macro: Table
    """The averages as they were before the chunk."""


class Keyframe(_Event, tag="keyframe", frozen=True, kw_only=True):
    """All that later chunk values need, every 700 tokens and where a recording begins in the middle of a run."""

    i: int
    """Tokens so far: the next token has this index."""
    chunks: int
    """Chunks so far."""
    complete_chunks: int
    """Those of them that were not cut short."""
    context: int | None = None
    """Number of the present context in the run, from 0; None in modes that do not begin again with a context."""
    context_chunks: int | None = None
    """Complete chunks of the present context so far; None likewise."""
    rows_prefill: list[int]
    """[L] rows observed."""
    rows_decode: list[int]
    counts_prefill: list[list[int]]
    """[L][E] selections."""
    counts_decode: list[list[int]]
    average_rows: list[int]
    """[L] rows that entered the averages."""
    average_meso: Table
    """Not yet bias-corrected."""
    average_macro: Table
    phases: Table
    coherence: float | None
    residual: float
    last_experts: list[list[int] | None]
    """[L][k] of the token before, null where there was none."""
    open_chunk: OpenChunk | None = None
    multistep: bool = False


class Change(_Event, tag="change", frozen=True, kw_only=True):
    """Something that a person changed while the run went on; what is None stayed as it was."""

    i: int
    """Tokens so far: the next token is the first one it holds for."""
    t: float
    tap: bool | None = None
    """Whether routing is observed; while it is not, tokens carry null experts."""
    multistep: bool | None = None
    sampling: Sampling | None = None


class Fork(_Event, tag="fork", frozen=True, kw_only=True):
    """One chunk that the run could have gone on with: its context copied, a text appended, fresh randomness.

    The run itself goes on as if it had not been forked.
    """

    i: int
    """Tokens of the run before the fork: every fork at one boundary has the same."""
    t: float
    arm: ForkArm
    """No text, a neutral text of as many tokens, or the text."""
    replicate: int
    seed: int
    text: str
    injected: list[int]
    """Token ids of the text."""
    generated: list[int]
    """Token ids of the continuation."""
    signals: Signals | None = None
    """Of the continuation, as the chunk it would have been."""
    pressures: Pressures | None = None


Event = (
    Header
    | Token
    | Chunk
    | Perturbation
    | Vitals
    | Marker
    | Refused
    | RunWarning
    | State
    | Keyframe
    | Cost
    | Change
    | Fork
)
"""Anything a session file may hold and this version knows."""


class Unknown(msgspec.Struct, frozen=True):
    """An event of a newer minor version: kept and passed on, never interpreted."""

    name: str
    raw: bytes


class Progress(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="progress"):
    """How far loading or prefill is. Shown, never recorded."""

    stage: Literal["starting", "reading", "loading", "prefill"]
    done: int = 0
    total: int | None = None
    unit: Literal["bytes", "tokens"] | None = None
    note: str | None = None


StreamItem = Event | Unknown | Progress
"""What a source hands to whoever watches it."""

_json_encoder = msgspec.json.Encoder()
_json_decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(Event)


def to_json(event: Event | Unknown) -> bytes:
    """One event as one line of JSON, without the newline."""
    return event.raw if isinstance(event, Unknown) else _json_encoder.encode(event)


def from_json(line: bytes) -> Event:
    """Read one line.

    Raises:
        msgspec.ValidationError: it is JSON, but no event of this version.
        msgspec.DecodeError: it is no JSON.
    """
    event: Event = _json_decoder.decode(line)
    return event
