"""Header of a session: model, engine, sampling and machine.

Unknown quantities are absent (`None`), never zero. Fixed names: docs/session-format.md.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

SCHEMA = 1
"""Schema of a file with the same number of experts per token in all MoE layers; any reader of schema 1 can read it."""
SCHEMA_BY_LAYER = 2
"""Schema of a file with different numbers of experts per token."""
SCHEMA_MINOR = 4
"""Shared by both schemas: 2.4 is 1.4 with experts per token by layer."""


NO_GATE = "none"
"""Gate of a dense model, which has no router."""

NO_TAP = "none: a dense model has no router"
"""`BackendInfo.tap` of a dense model."""


MaskRows = list[tuple[int, list[int]]]
"""Switched-off experts: model layer index and expert numbers of each masked layer, both ascending."""


class Units(msgspec.Struct, frozen=True):
    """Size of one step of the integers in a token event."""

    weights: float = 1e-4
    entropy: float = 1e-4
    margin: float = 1e-4


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The observed model."""

    name: str
    architecture: str
    layers: list[int]
    """Model layer index of each MoE layer, ascending; position in this list is `l` everywhere else. Empty if dense."""
    experts: int
    """0 if dense."""
    experts_per_token: int | list[int]
    """One number for all MoE layers; if they differ, one for each (schema 2). 0 if dense."""
    gate: str
    """Name of the gate, e.g. `softmax_top_k` or `top_k_softmax`; `none` if dense."""
    quantization: str | None = None
    parameters: int | None = None
    bytes: int | None = None
    """Size of all weights as stored."""
    expert_bytes: list[int] | None = None
    """Size of one expert, per MoE layer."""
    non_expert_bytes: int | None = None
    context_length: int | None = None
    trained_length: int | None = None
    """Longest sequence in training, if the model states it: positions beyond it are flagged."""
    fingerprint: str | None = None
    """SHA-256 of metadata, tensor table and size; not of the weights."""
    expert_ids: list[list[int]] | UnsetType = UNSET
    """Of a pruned model `[L][E]`: number of each expert in the whole model; unset for a whole one."""
    own_experts_per_token: int | list[int] | UnsetType = UNSET
    """Experts per token of the model's own configuration; unset unless the run uses another number."""

    @property
    def is_dense(self) -> bool:
        """True if the model has no MoE layer."""
        return not self.layers

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
    """Return the value for `ModelInfo`: one number if all MoE layers have the same, 0 without one, or else the list."""
    if not k_by_layer:
        return 0
    return k_by_layer[0] if len(set(k_by_layer)) == 1 else k_by_layer


class Buffer(msgspec.Struct, frozen=True, kw_only=True):
    """Memory that the engine has allocated or mapped for one purpose."""

    device: str
    """Name of the engine's buffer type, such as `CPU`, `CPU_Mapped`, `CPU_REPACK` or `CUDA0`."""
    kind: Literal["weights", "kv", "compute"]
    bytes: int


class BackendInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The engine that ran the model."""

    name: str
    version: str
    device: str
    threads: int | None = None
    tap: str
    """Method by which routing was observed."""
    dtype: str | None = None
    settings: dict[str, str | int | bool] = {}
    """Settings of the engine that change speed, memory or numbers: KV type, flash attention, batches."""
    buffers: list[Buffer] | UnsetType = UNSET
    """Buffers by device once the model is loaded; unset if the engine does not report them."""


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """Sampler settings. `temperature` 0 picks the most likely token; `top_p` 1 and `top_k` 0 exclude no token."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int
    stop: Literal["eos", "never"] = "eos"


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """Facts of the machine that affect a measurement; no names."""

    system: str
    machine: str
    processor: str | None = None
    cores: int | None = None
    memory: int | None = None
    python: str


class Teacher(msgspec.Struct, frozen=True, kw_only=True):
    """Source of the tokens of a run with teacher forcing, which compares two models or quantizations token by token."""

    model: str
    quantization: str | None = None
    backend: str
    tokens: int
    """Number of tokens, prompt included."""


class PauseConditions(msgspec.Struct, frozen=True, kw_only=True):
    """Conditions on which the run pauses by itself."""

    cool_down: float | None = None
    """Temperature in °C of a processor above which the run pauses."""
    pause_on: Literal["critical"] | None = None
    """Level of memory pressure at which the run pauses."""


class TemplateSource(msgspec.Struct, frozen=True, kw_only=True):
    """Origin of the chat template that was applied."""

    origin: Literal["model", "file", "library"]
    """The model's own, a file of the user, or code of the tokenizer's library, which has no template."""
    name: str | None = None
    """Name of the file, without its folder."""
    sha256: str | None = None
    """SHA-256 of the template's text in UTF-8."""


class Continues(msgspec.Struct, frozen=True, kw_only=True):
    """Recording that a continuation file continues, after the file before could no longer be written."""

    file: str
    """Name, without folder, of the run's first file."""
    i: int
    """Tokens of the run before this file."""


class Cost(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="cost"):
    """Measured observation cost: tokens per second with the tap off and on."""

    tap_off: float
    tap_on: float
    ratio: float
    """Speed with the tap over speed without; below 1 is slower."""
    interval: tuple[float, float] | None = None
    i: int | None = None


class Header(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="session"):
    """First line of every session."""

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
    """Template applied to the prompt (`chat`), or None for raw text."""
    template_source: TemplateSource | None = None
    """None for raw text, and in files before schema 1.3."""
    system: str | None = None
    """System prompt, which the template put before the prompt; None without one."""
    chunk_size: int = 20
    pressure: str = "measured-v2"
    capture: list[str]
    """Per-token quantities that this run recorded."""
    warnings: list[str] = []
    """Warnings about the model, one line each."""
    cost: Cost | None = None
    host: Host | None = None
    multistep: bool = False
    """The run began with a pause after every chunk; `Change` events record later changes."""
    teacher: Teacher | None = None
    """Source of the tokens with teacher forcing; None if the tokens were sampled."""
    control: PauseConditions | UnsetType = UNSET
    """Conditions on which the run pauses by itself; unset without any."""
    continues: Continues | None = None
    """None in a run's first file."""

    @property
    def is_ordered(self) -> bool:
        """True if a token's experts are ordered by router probability; without probabilities they are ordered by id."""
        return not {"weights", "entropy", "margin"}.isdisjoint(self.capture)

    @property
    def is_dense(self) -> bool:
        """True if the run is of a model without MoE layers. Imported counts are of an MoE model, with layers or not."""
        return self.model.is_dense and not self.counts_only

    @property
    def counts_only(self) -> bool:
        """True if the recording was imported from counts: it has keyframes and no tokens."""
        return self.capture == ["counts"]
