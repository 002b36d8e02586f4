"""Results that `moe-watch memory --json` prints: one class per JSON object, one field per key."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct


class DeviceMemoryResult(Struct, frozen=True, kw_only=True):
    """Buffers in one kind of memory."""

    mapped_bytes: Annotated[int, Meta(description="Weights as pages of the mapped file, which can be evicted.")]
    weights_bytes: Annotated[int, Meta(description="Other weights.")]
    kv_bytes: Annotated[int, Meta(description="KV cache and recurrent states.")]
    compute_bytes: Annotated[int, Meta(description="Compute buffers and the buffer of outputs.")]
    total_bytes: Annotated[int, Meta(description="Sum of the four.")]
    on_host: Annotated[bool, Meta(description="Part of the machine's memory.")]
    free_bytes: Annotated[int | None, Meta(description="Free memory of the device; null for the machine's memory.")]


class SettingResult(Struct, frozen=True, kw_only=True):
    """Memory with other options, or of another quantization on this machine."""

    model: Annotated[str, Meta(description="Model, as on the command line.")]
    arguments: Annotated[str, Meta(description="Options of the run; empty for the defaults.")]
    total_bytes: Annotated[int | None, Meta(description="Memory of the run; null if the engine refuses it.")]
    fits: Annotated[bool, Meta(description="All of it stays in memory.")]
    note: Annotated[str, Meta(description="Cost of the setting, or the engine's reason to refuse it; may be empty.")]


class RecommendationResult(Struct, frozen=True, kw_only=True):
    """First setting that fits, in the order of what a run loses."""

    model: Annotated[str, Meta(description="Model, as on the command line.")]
    arguments: Annotated[str, Meta(description="Options of the run; empty for the defaults.")]
    command: Annotated[str, Meta(description="Complete command line.")]
    total_bytes: Annotated[int, Meta(description="Memory of the run.")]


class MemoryReport(Struct, frozen=True, kw_only=True):
    """Memory that a run of a model takes, and memory that is available. Sizes are in bytes."""

    model: Annotated[str, Meta(description="Model, as on the command line.")]
    engine: Annotated[str, Meta(description="`mlx` or `llama.cpp`.")]
    source: Annotated[
        Literal["engine", "headers"],
        Meta(description="`engine`: computed by the engine. `headers`: estimated, because the engine cannot start."),
    ]
    context: Annotated[int, Meta(description="Length of the context in tokens.")]
    kv_type: Annotated[str | None, Meta(description="Type of the KV cache; null if it has several or is unknown.")]
    weights_bytes: Annotated[int, Meta(description="All weights in memory, mapped ones included.")]
    expert_bytes: Annotated[int | None, Meta(description="Weights of the routed experts; null if unknown.")]
    non_expert_bytes: Annotated[int | None, Meta(description="All other weights; null if unknown.")]
    mapped_bytes: Annotated[int, Meta(description="Part of the weights that is pages of the file; can be evicted.")]
    repacked_bytes: Annotated[int, Meta(description="Part of the weights that is copied into the CPU's own layout.")]
    kv_bytes: Annotated[int, Meta(description="KV cache and recurrent states, at the full context.")]
    compute_bytes: Annotated[int, Meta(description="Compute buffers and the buffer of outputs.")]
    runtime_bytes: Annotated[int, Meta(description="Processes without the buffers: engine, tokenizer, tap, dashboard.")]
    loading_bytes: Annotated[int, Meta(description="Largest memory while loading; 0 if it is not above the weights.")]
    total_bytes: Annotated[int, Meta(description="Memory of the run, in all kinds of memory.")]
    required_bytes: Annotated[int, Meta(description="Part in the machine's memory that cannot be evicted.")]
    address_space_bytes: Annotated[
        int, Meta(description="Address space of the model's process, which `ulimit -v` limits; 0 if unknown.")
    ]
    available_bytes: Annotated[int, Meta(description="Memory that is available now.")]
    limit: Annotated[
        Literal["machine", "container", "ulimit -v", "given"],
        Meta(description="What limits it: the machine, a container, `ulimit -v`, or `--memory`."),
    ]
    fits: Annotated[bool, Meta(description="All of it stays in memory.")]
    starts: Annotated[
        bool, Meta(description="The required part is available; weights may be read from the disk again.")
    ]
    by_device: Annotated[dict[str, DeviceMemoryResult], Meta(description="Sizes by the engine's buffer type.")]
    settings: Annotated[list[SettingResult], Meta(description="Other settings.")]
    recommendation: Annotated[RecommendationResult | None, Meta(description="Null if no setting fits.")]
    smallest_bytes: Annotated[int, Meta(description="What the smallest of all settings needs of the available memory.")]
    notes: Annotated[list[str], Meta(description="Remarks.")]


class FormatResult(Struct, frozen=True, kw_only=True):
    """Memory of a published model in one format."""

    format: Annotated[str, Meta(description="`FP16`, a quantization of llama.cpp, or `MLX 4-bit`.")]
    weights_bytes: Annotated[int, Meta(description="Size of the weights.")]
    total_bytes: Annotated[int, Meta(description="Weights, KV cache, compute buffers and runtime.")]
    fits: Annotated[bool, Meta(description="The total is within the memory.")]


class ResidentResult(Struct, frozen=True, kw_only=True):
    """Memory with some experts of each layer resident."""

    experts: Annotated[int, Meta(description="Resident experts per layer.")]
    weights_bytes: Annotated[int, Meta(description="Size of the resident weights.")]
    total_bytes: Annotated[int, Meta(description="Weights, KV cache, compute buffers and runtime.")]
    fits: Annotated[bool, Meta(description="The total is within the memory.")]


class PublishedMemoryReport(Struct, frozen=True, kw_only=True):
    """Memory of a published model by format, from its published shape. No file is read. Sizes are in bytes."""

    name: Annotated[str, Meta(description="Name in the table of published shapes.")]
    title: Annotated[str, Meta(description="Published name.")]
    source: Annotated[str, Meta(description="Source of the shape.")]
    layers: Annotated[int, Meta(description="Number of layers.")]
    moe_layers: Annotated[int, Meta(description="Number of layers with routed experts.")]
    experts: Annotated[int, Meta(description="Routed experts per MoE layer.")]
    experts_per_token: Annotated[int, Meta(description="Experts selected for a token.")]
    parameters: Annotated[int, Meta(description="Number of parameters.")]
    active_parameters: Annotated[int, Meta(description="Parameters that one token uses.")]
    expert_parameters: Annotated[int, Meta(description="Parameters of one routed expert in one layer.")]
    context: Annotated[int, Meta(description="Length of the context in tokens.")]
    kv_bytes: Annotated[int, Meta(description="KV cache at that context, in 16-bit numbers.")]
    overhead_bytes: Annotated[int, Meta(description="Estimate for compute buffers and runtime.")]
    available_bytes: Annotated[int, Meta(description="Memory that the totals are compared with.")]
    limit: Annotated[
        Literal["machine", "container", "ulimit -v", "given"],
        Meta(description="What limits it: the machine, a container, `ulimit -v`, or `--memory`."),
    ]
    fits: Annotated[bool, Meta(description="At least one format fits.")]
    formats: Annotated[list[FormatResult], Meta(description="Formats, the largest first.")]
    resident: Annotated[list[ResidentResult], Meta(description="With some experts resident, in 4-bit MLX format.")]
    recommendation: Annotated[str | None, Meta(description="Largest format that fits; null if none does.")]
