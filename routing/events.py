"""Events of a run, exactly as a session file and the worker's pipe have them.

A run is a `Header` followed by events in the order in which they occurred. All values on screen and in results are
functions of these events. Shapes: `L` MoE layers, `E` experts, `k` experts per token. If `k` differs by layer, `L·k` is
its sum over layers. Unavailable quantities are absent (`None`), never zero.

Weights, entropies and margins are integers in the header's `units`: they are rounded here, once, so that a live run and
its replay compute with the same numbers. Fixed names: docs/session-format.md.

The header is defined in `moe_watch.routing.header`, the parts of `Vitals` in `moe_watch.routing.readings`; they are
imported from here like the events.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from moe_watch.routing.header import SCHEMA as SCHEMA
from moe_watch.routing.header import SCHEMA_BY_LAYER as SCHEMA_BY_LAYER
from moe_watch.routing.header import SCHEMA_MINOR as SCHEMA_MINOR
from moe_watch.routing.header import BackendInfo as BackendInfo
from moe_watch.routing.header import Continues as Continues
from moe_watch.routing.header import Cost as Cost
from moe_watch.routing.header import Header as Header
from moe_watch.routing.header import Host as Host
from moe_watch.routing.header import MaskRows as MaskRows
from moe_watch.routing.header import ModelInfo as ModelInfo
from moe_watch.routing.header import PauseConditions as PauseConditions
from moe_watch.routing.header import Sampling as Sampling
from moe_watch.routing.header import Teacher as Teacher
from moe_watch.routing.header import TemplateSource as TemplateSource
from moe_watch.routing.header import Units as Units
from moe_watch.routing.readings import Clock as Clock
from moe_watch.routing.readings import GpuMemory as GpuMemory
from moe_watch.routing.readings import MemoryPressure as MemoryPressure
from moe_watch.routing.readings import ModelMemory as ModelMemory
from moe_watch.routing.readings import Temperature as Temperature
from moe_watch.routing.readings import ThermalLevel as ThermalLevel

Phase = Literal["prefill", "decode"]
TokenSource = Literal["prompt", "injected", "generated"]
PerturbationForm = Literal["raw", "turn"]
PerturbationSource = Literal["key", "schedule", "fork"]
RunState = Literal["paused", "resumed", "fresh_context", "finished", "error", "dropped"]
ForkArm = Literal["none", "neutral", "text"]
PauseReason = Literal["fast_instability", "negative_pressure", "multistep_chunk_complete"]

LEAST_LOGPROB = -(1 << 18)
"""Logits in half precision are within ±65,504, so no log-probability is below −131,008 − ln V. A lower one comes from a
damaged model or file, and is absent."""


class _Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="event"):
    """Base of all events that follow the header."""


class Token(_Event, tag="token", frozen=True, kw_only=True, gc=False):
    """One token, with the routing of the forward pass that has it as input.

    `logprob`, `top_margin` and `choice_gap` come from the forward pass that predicted the token, at temperature 1.
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
    """The sampler picked end of text here; with `stop` `never` this token was sampled in its place."""
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
    """Signals that pressure is computed from: means over a chunk's decode tokens and all MoE layers."""

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
    """Pressures of one chunk, with the weights of the net."""

    fast: float
    mid: float
    slow: float
    net: float
    w_fast: float
    w_mid: float
    w_slow: float


class Chunk(_Event, tag="chunk", frozen=True, kw_only=True, gc=False):
    """A chunk that has ended: successive decode tokens with their signals and pressures."""

    index: int
    context: int | None = None
    """Number of its context in the run, from 0; None in modes that do not restart with a context."""
    first: int
    """Index `i` of its first decode token."""
    last: int
    """Index `i` of its last decode token."""
    tokens: int
    """Number of decode tokens; fewer than the chunk size if `partial`."""
    partial: bool = False
    warm_up: bool = False
    signals: Signals | None = None
    """None if a signal was not recorded."""
    pressures: Pressures | None = None
    residual: float = 0.0
    pause: PauseReason | None = None


class Perturbation(_Event, tag="perturbation", frozen=True, kw_only=True):
    """Injection of text into the context; its tokens follow with `source` injected."""

    i: int
    """Index of the first injected token."""
    t: float
    text: str
    ids: list[int]
    form: PerturbationForm
    source: PerturbationSource
    at_once: bool = False
    kept: int | None = None
    """For a turn of which the whole conversation was rendered: number of tokens of the context that `ids` follow."""
    cut: int = 0
    """Number of tokens that were removed from the end of the context before `ids` were evaluated."""
    again: int = 0
    """Number of tokens at the beginning of `ids` that repeat the conversation so far."""


class Vitals(_Event, tag="vitals", frozen=True, kw_only=True):
    """Vitals of the machine at one time, in bytes and degrees Celsius.

    One line of the session format: each key of the file is a field.
    """

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
    swapped_in: int | None = None
    """Bytes read from swap since the machine's start."""
    swapped_out: int | None = None
    """Bytes written to swap since the machine's start."""
    worker_read: int | None = None
    """Bytes that the worker's reads and page faults fetched from storage since its start."""
    worker_faults: int | None = None
    """Page faults of the worker since its start that had to read from storage (major faults)."""
    group_events: dict[str, int] | None = None
    """Memory events of this process's control group since its creation, such as `high`, `max`, `oom_kill`."""
    model_memory: ModelMemory | None = None
    pressure: MemoryPressure | None = None
    temperatures: list[Temperature] = []
    thermal_level: ThermalLevel | None = None
    """Thermal level of macOS."""
    clocks: list[Clock] = []
    gpu_memory: list[GpuMemory] = []
    throttling: bool | None = None
    throttling_source: str | None = None
    """`kernel counters` or `NVML`, with the reason that the source gives."""
    unavailable: dict[str, str] = {}
    """Reason for each absent quantity, by field name, and for each sensor that is left out, by sensor name."""


class Marker(_Event, tag="marker", frozen=True, kw_only=True):
    """Marker: a note of the user at a token."""

    i: int
    t: float
    note: str = ""


class Refused(_Event, tag="refused", frozen=True, kw_only=True):
    """A refused command, at the position where it would have taken effect. The run continues without it."""

    i: int
    """Tokens so far."""
    t: float
    command: str
    """`start`, `inject`, `sampling`, `tap`, `mask`, `fork`, `load` or `measure`; later versions may have more."""
    why: str
    """One line for the user."""


class RunWarning(_Event, tag="warning", frozen=True, kw_only=True):
    """A warning about the run's numbers that was found during the run, such as a failed gate check."""

    i: int
    """Tokens so far."""
    t: float
    text: str
    """One line for the user."""


class State(_Event, tag="state", frozen=True, kw_only=True):
    """Change of the run's state."""

    state: RunState
    i: int
    """Tokens so far."""
    t: float
    why: str | None = None
    """`eos`, `length`, `context`, `user`, `chunk`, `temperature`, `memory`, …"""
    message: str | None = None
    count: int | None = None
    """For `dropped`: number of lost events."""


Table = bytes | list[list[float]]
"""[L][E] numbers: 64-bit floats, little-endian, row by row, which are base64 in JSON; lists in files of schema 1.0."""


class OpenChunk(msgspec.Struct, frozen=True, kw_only=True):
    """Sums of a chunk that has begun and not ended."""

    first: int
    last: int
    tokens: int
    sums: dict[str, float]
    """Running sums by signal name, in the units of the token events."""
    observed: dict[str, int]
    """Number of values in each sum."""
    counts: list[list[int]]
    """[L][E] selections."""
    start_rows: list[int]
    start_meso: Table
    start_macro: Table
    """The averages as they were before the chunk."""


class Keyframe(_Event, tag="keyframe", frozen=True, kw_only=True):
    """Full state for later chunks, every 700 tokens and where a recording begins in the middle of a run."""

    i: int
    """Tokens so far: the next token has this index."""
    chunks: int
    """Chunks so far."""
    complete_chunks: int
    """Chunks so far that were not cut short."""
    context: int | None = None
    """Number of the present context in the run, from 0; None in modes that do not restart with a context."""
    context_chunks: int | None = None
    """Complete chunks of the present context so far; None in the same modes."""
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
    """[L][k] expert ids of the token before, null for layers that were not computed."""
    open_chunk: OpenChunk | None = None
    multistep: bool = False
    mask: MaskRows | UnsetType = UNSET
    """Experts that are switched off; unset if there are none."""


class Change(_Event, tag="change", frozen=True, kw_only=True):
    """Settings that the user changed during the run; None means unchanged."""

    i: int
    """Tokens so far: the change applies from the next token on."""
    t: float
    tap: bool | None = None
    """True if routing is observed from here on; without the tap, tokens have null experts."""
    multistep: bool | None = None
    sampling: Sampling | None = None
    rate: float | None = None
    """Limit in tokens per second; 0 is no limit."""
    mask: MaskRows | UnsetType = UNSET
    """All experts that are switched off from here on; empty if all are on again, unset if unchanged."""
    experts_per_token: int | UnsetType = UNSET
    """Experts per token of the run, at its beginning; unset unless it differs from the model's own."""


class Fork(_Event, tag="fork", frozen=True, kw_only=True):
    """One continuation of a fork: a chunk after a copy of the context and an appended text, with a separate seed.

    The run continues as if it had not been forked.
    """

    i: int
    """Tokens of the run before the fork; equal for all continuations at one boundary."""
    t: float
    arm: ForkArm
    """No text, a neutral text of the same number of tokens, or the text."""
    replicate: int
    seed: int
    text: str
    injected: list[int]
    """Token ids of the text."""
    generated: list[int]
    """Token ids of the continuation."""
    signals: Signals | None = None
    """Signals of the continuation, computed like a chunk of the run."""
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
"""All events of a session file that this version interprets."""


class Unknown(msgspec.Struct, frozen=True):
    """An event of a newer minor version: stored and passed on, never interpreted."""

    name: str
    raw: bytes


class Progress(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="progress"):
    """Progress of loading or prefill. Shown, never recorded."""

    stage: Literal["starting", "reading", "loading", "prefill"]
    done: int = 0
    total: int | None = None
    unit: Literal["bytes", "tokens"] | None = None
    note: str | None = None


StreamItem = Event | Unknown | Progress
"""Items that a source yields."""

_json_encoder = msgspec.json.Encoder()
_json_decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(Event)


def to_json(event: Event | Unknown) -> bytes:
    """Return one event as a line of JSON, without the newline."""
    return event.raw if isinstance(event, Unknown) else _json_encoder.encode(event)


def from_json(line: bytes) -> Event:
    """Read one line.

    Raises:
        msgspec.ValidationError: the line is JSON, but not an event of this version.
        msgspec.DecodeError: the line is not JSON.
    """
    event: Event = _json_decoder.decode(line)
    return event
