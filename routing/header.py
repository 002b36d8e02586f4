"""What a session's header says: the model, the engine, how tokens were drawn, and on what.

Quantities that are not known are absent (`None`), never zero. Fixed names: docs/session-format.md.
"""

from __future__ import annotations

from typing import Literal

import msgspec

SCHEMA = 1
"""Of a file whose MoE layers all select the same number of experts, which any reader of schema 1 can read."""
SCHEMA_BY_LAYER = 2
"""Of a file whose MoE layers select different numbers of experts."""
SCHEMA_MINOR = 2
"""Counted through both: 2.2 is 1.2 with experts per token by layer."""


class Units(msgspec.Struct, frozen=True):
    """The size of one step of the integers in a token event."""

    weights: float = 1e-4
    entropy: float = 1e-4
    margin: float = 1e-4


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What was watched."""

    name: str
    architecture: str
    layers: list[int]
    """Model layer index of each MoE layer, ascending; position in this list is `l` everywhere else."""
    experts: int
    experts_per_token: int | list[int]
    """One number for all MoE layers; where they differ, one for each (schema 2)."""
    gate: str
    """How the router turns logits into weights, e.g. `softmax_top_k` or `top_k_softmax`."""
    quantization: str | None = None
    parameters: int | None = None
    bytes: int | None = None
    """Size of all weights as stored."""
    expert_bytes: list[int] | None = None
    """Size of one expert, per MoE layer."""
    non_expert_bytes: int | None = None
    context_length: int | None = None
    trained_length: int | None = None
    """Longest sequence seen in training, where the model says so: positions beyond it are flagged."""
    fingerprint: str | None = None
    """SHA-256 of metadata, tensor table and size; not of the weights."""

    @property
    def k_by_layer(self) -> list[int]:
        """Experts per token of each MoE layer `[L]`."""
        k = self.experts_per_token
        return k if isinstance(k, list) else [k] * len(self.layers)

    @property
    def schema(self) -> int:
        """The schema of a session file of this model."""
        return SCHEMA_BY_LAYER if isinstance(self.experts_per_token, list) else SCHEMA


def experts_per_token(k_by_layer: list[int]) -> int | list[int]:
    """Return what `ModelInfo` holds: one number if all MoE layers, of which there is at least one, have the same."""
    return k_by_layer[0] if len(set(k_by_layer)) == 1 else k_by_layer


class BackendInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The engine that ran the model."""

    name: str
    version: str
    device: str
    threads: int | None = None
    tap: str
    """How routing was observed."""
    dtype: str | None = None
    settings: dict[str, str | int | bool] = {}
    """What the engine was told, or chose, that changes speed, memory or numbers: KV type, flash attention, batches."""


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """How the next token is drawn. `temperature` 0 takes the likeliest; `top_p` 1 and `top_k` 0 leave all in."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int
    stop: Literal["eos", "never"] = "eos"


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """The machine, as far as it matters to a measurement; no names."""

    system: str
    machine: str
    processor: str | None = None
    cores: int | None = None
    memory: int | None = None
    python: str


class Teacher(msgspec.Struct, frozen=True, kw_only=True):
    """Whose tokens a run was made to take, so that two models or quantisations can be compared token by token."""

    model: str
    quantization: str | None = None
    backend: str
    tokens: int
    """How many tokens, prompt included."""


class Continues(msgspec.Struct, frozen=True, kw_only=True):
    """Which recording a file goes on with, after one could not be written any more."""

    file: str
    """Name, without folder, of the run's first file."""
    i: int
    """Tokens of the run before this file."""


class Cost(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="cost"):
    """Measured cost of observing: tokens per second with the tap off and on."""

    tap_off: float
    tap_on: float
    ratio: float
    """Speed with the tap over speed without; below 1 is slower."""
    interval: tuple[float, float] | None = None
    i: int | None = None


class Header(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="session"):
    """The first line of every session."""

    schema: int = SCHEMA
    schema_minor: int = SCHEMA_MINOR
    units: Units = Units()
    created: str
    """UTC, ISO 8601."""
    moe_watch: str
    model: ModelInfo
    backend: BackendInfo
    sampling: Sampling
    prompt: str
    template: str | None = None
    """How the prompt was wrapped (`chat`), or None for raw text."""
    chunk_size: int = 20
    pressure: str = "measured-v2"
    capture: list[str]
    """Which per-token quantities this run recorded."""
    warnings: list[str] = []
    """What a reader should know about the model, one line each."""
    cost: Cost | None = None
    host: Host | None = None
    multistep: bool = False
    """The run began with a pause after every chunk; `Change` events say when that changed."""
    teacher: Teacher | None = None
    """Whose tokens this run took; None if it drew its own."""
    continues: Continues | None = None
    """None in a run's first file."""

    @property
    def is_ordered(self) -> bool:
        """Experts of a token stand by router probability. Where no probabilities were known they stand by id."""
        return not {"weights", "entropy", "margin"}.isdisjoint(self.capture)

    @property
    def counts_only(self) -> bool:
        """The recording was imported from counts: it has keyframes and no tokens."""
        return self.capture == ["counts"]
