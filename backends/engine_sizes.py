"""Memory that an engine takes for a model, as the engine computes it without reading the weights."""

from __future__ import annotations

import msgspec

from moe_watch.backends.protocol import EngineOptions


class BufferSizes(msgspec.Struct, frozen=True, kw_only=True):
    """Buffers of one kind of memory, in bytes."""

    name: str
    """Name of the buffer type, such as `CPU`, `CPU_REPACK` or `CUDA0`."""
    on_host: bool
    """Part of the machine's memory. It is False for the separate memory of a GPU."""
    mapped: int = 0
    """Weights that are pages of the mapped file: the system can evict them, and read them again."""
    weights: int = 0
    """Weights in memory of the process."""
    kv: int = 0
    """KV cache and recurrent states, at the full context."""
    compute: int = 0
    """Activations of one step, and outputs."""
    free: int | None = None
    """Free memory of the device; None for the machine's memory."""

    @property
    def total(self) -> int:
        return self.mapped + self.weights + self.kv + self.compute


class EngineSizes(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Memory of one model with one set of options."""

    buffers: list[BufferSizes]
    runtime: int
    """Interpreter, libraries, tokenizer and tap of the model's process: measured, except for the tap."""
    address_space: int = 0
    """Address space of that process without the buffers, which `ulimit -v` counts."""
    context: int
    """Length of the context in tokens."""
    kv_type: str | None
    """Type of the KV cache; None if it has several."""
    repacked: int = 0
    """Weights that are copied into another layout. They are counted in `weights` of their buffer."""
    loading: int = 0
    """Largest memory while the weights are loaded; 0 if it is not above the sum of the weights."""
    expert: int | None = None
    """Bytes of the routed experts in memory; None if unknown."""
    supports_gpu: bool = False


class FailedSizes(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Refusal of one set of options."""

    what: str
    advice: str


class SizesItem(msgspec.Struct, frozen=True, kw_only=True):
    """One model with one set of options."""

    model: str
    options: EngineOptions


class SizesRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Question to the child process that loads the engine."""

    engine: str
    items: list[SizesItem]


class SizesAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Answers in the order of the request."""

    sizes: list[EngineSizes | FailedSizes]
