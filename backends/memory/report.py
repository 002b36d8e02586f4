"""Report on the memory of a model: what it takes, whether it fits, and which settings change that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from msgspec.structs import replace

from moe_watch.backends.engine_sizes import BufferSizes, EngineSizes, FailedSizes, SizesItem
from moe_watch.backends.memory.ask import ask_engine
from moe_watch.backends.memory.available import AvailableMemory
from moe_watch.backends.memory.need import Need
from moe_watch.backends.memory.quick import QuickEstimate, estimate_folder, estimate_gguf
from moe_watch.backends.memory.results import DeviceMemoryResult, MemoryReport, RecommendationResult, SettingResult
from moe_watch.backends.memory.variants import Variant, variants
from moe_watch.backends.model_files.catalog import ModelLocation
from moe_watch.backends.model_files.config import read_config
from moe_watch.backends.model_files.gguf import read_parts
from moe_watch.backends.model_files.preflight import read_tensor_tables
from moe_watch.backends.protocol import EngineOptions
from moe_watch.routing.errors import UserError

OTHER_QUANTIZATION = "another quantization"
OTHER_RANK = 3
"""Another quantization loses more than a shorter context, and less than a smaller prefill step and cache together."""

READ_AGAIN = (
    "it starts, but the weights do not stay in memory: parts of them are read from the disk again for every token"
)

Asked = Callable[[str, Sequence[SizesItem]], list[EngineSizes | FailedSizes]]


@dataclass(frozen=True, slots=True)
class OtherQuantization:
    """Same model with other weights on this machine."""

    name: str
    """Name for the command line."""
    path: Path


@dataclass(frozen=True, slots=True)
class _Judged:
    """Variant with its memory; None if the engine refuses it."""

    variant: Variant
    need: Need | None
    note: str


def memory_report(
    model: str,
    location: ModelLocation,
    engine: str,
    options: EngineOptions,
    available: AvailableMemory,
    *,
    backend: str = "auto",
    others: Callable[[], Sequence[OtherQuantization]] = tuple,
    ask: Asked = ask_engine,
) -> MemoryReport:
    """Return the report on one model on this machine.

    Args:
        model: name of the model on the command line.
        location: location of its files.
        engine: engine that `choose_backend` returned.
        options: options of a run.
        available: memory that is available.
        backend: `--backend`, for the recommended command line.
        others: searches for other quantizations: `moe_watch.backends.discovery.alternatives`. Called if the engine
            answers.
        ask: function that asks the engine.

    Raises:
        UserError: the engine cannot load the model, or not with these options.
    """
    path = str(location.path) if location.origin != "embedded" else model
    base = Variant(model, options)
    notes: list[str] = []
    source: Literal["engine", "headers"] = "engine"
    try:
        [sizes] = ask(engine, [SizesItem(model=path, options=options)])
    except UserError as error:
        notes.append(f"estimated from the headers: {error.what}")
        sizes, source = _estimated(location, options), "headers"
    if isinstance(sizes, FailedSizes):
        raise UserError(sizes.what, advice=sizes.advice)
    need = Need(sizes)
    judged = _judged(model, path, engine, options, sizes, others(), ask) if source == "engine" else []
    recommended = _recommended([_Judged(base, need, ""), *judged], available, backend)
    if not need.fits(available) and need.starts(available):
        notes.append(READ_AGAIN)
    return MemoryReport(
        model=model,
        engine=engine,
        source=source,
        context=sizes.context,
        kv_type=sizes.kv_type,
        weights_bytes=need.weights,
        expert_bytes=sizes.expert,
        non_expert_bytes=None if sizes.expert is None else need.weights - sizes.expert,
        mapped_bytes=need.mapped,
        repacked_bytes=sizes.repacked,
        kv_bytes=need.kv,
        compute_bytes=need.compute,
        runtime_bytes=need.runtime,
        loading_bytes=sizes.loading if sizes.loading > need.weights else 0,
        total_bytes=need.total,
        required_bytes=need.required,
        address_space_bytes=need.address_space,
        available_bytes=available.bytes,
        limit=available.limit,
        fits=need.fits(available),
        starts=need.starts(available),
        by_device={each.name: _device(each) for each in sizes.buffers},
        settings=[_setting(each, available) for each in judged],
        recommendation=recommended,
        smallest_bytes=min(each.compared(available) for each in (need, *_needs(judged))),
        notes=notes,
    )


def _estimated(location: ModelLocation, options: EngineOptions) -> EngineSizes:
    """Return sizes from the headers alone, for an engine that cannot start."""
    if location.path is None:
        raise ValueError(f"{location.name} has not been fetched")
    estimate: QuickEstimate
    if location.format == "gguf":
        parts = read_parts(location.path)
        tensors = [tensor for part in parts for tensor in part.tensors]
        weights = sum(tensor.bytes for tensor in tensors)
        is_float32 = {tensor.dtype for tensor in tensors} == {"F32"}
        estimate = estimate_gguf(parts[0], weights, is_float32=is_float32, context=options.context)
    else:
        estimate = estimate_folder(
            read_config(location.path), read_tensor_tables(location.path), context=options.context
        )
    is_mapped = location.format == "gguf" and options.mmap is not False
    buffers = BufferSizes(
        name="CPU",
        on_host=True,
        mapped=estimate.weights if is_mapped else 0,
        weights=0 if is_mapped else estimate.weights,
        kv=estimate.kv,
    )
    return EngineSizes(
        buffers=[buffers],
        runtime=estimate.overhead,
        address_space=estimate.overhead,
        context=estimate.context,
        kv_type=None,
    )


def _judged(
    model: str,
    path: str,
    engine: str,
    options: EngineOptions,
    sizes: EngineSizes,
    others: Sequence[OtherQuantization],
    ask: Asked,
) -> list[_Judged]:
    """Return all other settings with their memory, in the order of what a run loses."""
    tried = list(
        variants(model, engine, options, context=sizes.context, kv_type=sizes.kv_type, on_gpu=sizes.supports_gpu)
    )
    files = {each.model: path for each in tried}
    for other in others:
        tried.append(Variant(other.name, replace(options), OTHER_QUANTIZATION, rank=OTHER_RANK))
        files[other.name] = str(other.path)
    tried.sort(key=lambda each: each.rank)
    if not tried:
        return []
    try:
        found = ask(engine, [SizesItem(model=files[each.model], options=each.options) for each in tried])
    except UserError as error:
        found = [FailedSizes(what=error.what, advice="") for _ in tried]
    return [_judgement(variant, answer) for variant, answer in zip(tried, found, strict=True)]


def _needs(judged: Sequence[_Judged]) -> list[Need]:
    return [each.need for each in judged if each.need is not None]


def _judgement(variant: Variant, answer: EngineSizes | FailedSizes) -> _Judged:
    if isinstance(answer, FailedSizes):
        return _Judged(variant, None, answer.what)
    return _Judged(variant, Need(answer), variant.note)


def _recommended(judged: Sequence[_Judged], available: AvailableMemory, backend: str) -> RecommendationResult | None:
    for each in judged:
        if each.need is not None and each.need.fits(available):
            return RecommendationResult(
                model=each.variant.model,
                arguments=each.variant.arguments,
                command=each.variant.command(backend),
                total_bytes=each.need.total,
            )
    return None


def _setting(judged: _Judged, available: AvailableMemory) -> SettingResult:
    return SettingResult(
        model=judged.variant.model,
        arguments=judged.variant.arguments,
        total_bytes=None if judged.need is None else judged.need.total,
        fits=judged.need is not None and judged.need.fits(available),
        note=judged.note,
    )


def _device(buffers: BufferSizes) -> DeviceMemoryResult:
    return DeviceMemoryResult(
        mapped_bytes=buffers.mapped,
        weights_bytes=buffers.weights,
        kv_bytes=buffers.kv,
        compute_bytes=buffers.compute,
        total_bytes=buffers.total,
        on_host=buffers.on_host,
        free_bytes=buffers.free,
    )
