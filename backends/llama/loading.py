"""Loader of GGUF files with llama.cpp and a tap on their routers."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from llama_cpp import llama_cpp as lib
from msgspec import UNSET, UnsetType

from moe_watch.backends.engine_log import summarize
from moe_watch.backends.engine_options import MIN_BATCH, check_context
from moe_watch.backends.llama import model_facts as llama_facts
from moe_watch.backends.llama.bindings import VERSION, check_layout, device_name, log
from moe_watch.backends.llama.compiler import CannotCompile, compiled_tap
from moe_watch.backends.llama.context import (
    PREFILL_STEP,
    ContextSettings,
    clear,
    evaluate,
    flash_attention,
    new_context,
)
from moe_watch.backends.llama.experts.another_k import check_selected
from moe_watch.backends.llama.ignored_settings import ignored_settings
from moe_watch.backends.llama.model import Report, open_model
from moe_watch.backends.llama.tap.base import NoTap, Tap
from moe_watch.backends.llama.tap.compiled_tap import CompiledTap
from moe_watch.backends.llama.tap.gate import (
    ABSENT_GATE,
    UNKNOWN,
    ProbeTap,
    RouterGate,
    are_scores,
    check_rows,
    read_gate,
)
from moe_watch.backends.llama.tap.masking import MaskNodes, mask_nodes
from moe_watch.backends.llama.tap.python_tap import PythonTap
from moe_watch.backends.llama.tap.router_rows import RouterRows
from moe_watch.backends.llama.text import LlamaTokenizer
from moe_watch.backends.model_files.catalog import ModelLocation
from moe_watch.backends.model_files.dense import check_without_experts
from moe_watch.backends.model_files.gguf import GgufFile, read_parts
from moe_watch.backends.model_files.sizes import WeightFacts
from moe_watch.backends.protocol import EngineOptions
from moe_watch.backends.prune_record import expert_ids, record_of_gguf
from moe_watch.backends.system import out_of_memory
from moe_watch.backends.text.token_ids import NO_END_OF_TEXT
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import BackendInfo, ModelInfo
from moe_watch.routing.header import NO_TAP, experts_per_token

LONGEST_CONTEXT = 8192
"""Tokens. A context's memory is allocated at once, and many models support contexts that no machine's memory holds."""
MOST_THREADS = 512
"""Largest number of threads that llama.cpp supports."""
MOST_THREADS_PER_CORE = 4
ABOUT_MEMORY = re.compile("full-size SWA cache|padding V cache|mlock|setting new yarn_attn_factor")
"""Warnings of llama.cpp about its options; they change no number, or the header contains them already."""
SLOW = "a callback in Python, slower"
FEWEST_MOST_THREADS = 16
"""Number of threads that is allowed on every machine."""


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """Facts about the model from the evaluation of one token; a dense model has no rows."""

    rows: list[RouterRows]
    gate: RouterGate
    warnings: list[str]
    mask_nodes: MaskNodes

    @property
    def layers(self) -> list[int]:
        return [rows.layer for rows in self.rows]

    @property
    def chosen(self) -> dict[int, int]:
        """Experts per token by model layer index."""
        return {rows.layer: int(rows.experts.shape[1]) for rows in self.rows}

    @property
    def experts(self) -> int:
        return int(self.rows[0].scores.shape[1]) if self.rows else 0

    @property
    def k_by_layer(self) -> list[int]:
        """Experts per token of each layer."""
        return [int(rows.experts.shape[1]) for rows in self.rows]


@dataclass(frozen=True, slots=True, eq=False)
class LoadedLlamaModel:
    """Loaded model with its tap in place."""

    model: Any
    settings: ContextSettings
    context: Any
    tap: Tap
    tokenizer: LlamaTokenizer
    gate: RouterGate
    mask_nodes: MaskNodes
    info: ModelInfo
    backend: BackendInfo
    context_length: int
    warnings: list[str]


def load_model(location: ModelLocation, *, options: EngineOptions, progress: Report) -> LoadedLlamaModel:
    """Load the weights, and evaluate one token to check that the tap reads all routers.

    Raises:
        UserError: llama.cpp cannot load the model, the number of threads is out of range, or the experts of the model
            cannot be observed.
    """
    with log.warnings() as logged:
        loaded = _load(location, options, progress)
    of_the_model = (line for line in logged if ABOUT_MEMORY.search(line) is None)
    return replace(loaded, warnings=[*loaded.warnings, *summarize("llama.cpp", of_the_model)])


def _load(location: ModelLocation, options: EngineOptions, progress: Report) -> LoadedLlamaModel:
    check_threads(options.threads)
    if location.path is None:
        raise ValueError(f"{location.name} has not been fetched")
    check_layout()
    parts = read_parts(location.path)
    facts = llama_facts.weight_facts(parts)
    opened = open_model(location, parts, options, facts.bytes, progress)
    model = opened.handle
    settings = context_settings(model, parts, options)
    tokenizer = LlamaTokenizer(model)
    probe = _probe(model, location.name, parts, settings, tokenizer.begin)
    if options.experts_per_token is not None:
        check_selected(location.name, options.experts_per_token, probe.chosen)
    tap, how = _tap(probe, settings)
    context = new_context(model, settings, tap)
    used = _context_settings(context, settings) | opened.settings
    warnings = opened.warnings + probe.warnings + _warnings(model, tokenizer, settings, options)
    if how.startswith(SLOW):
        warnings.append(f"routing is read by {how}")
    warnings += ignored_settings(parts[0], probe.gate.name, settings.context, probe.chosen)
    if beyond_memory := out_of_memory.beyond_memory(facts.bytes):
        warnings.insert(0, beyond_memory)
    _check_tap(context, tap, tokenizer.begin, probe)
    return LoadedLlamaModel(
        model=model,
        settings=settings,
        context=context,
        tap=tap,
        tokenizer=tokenizer,
        gate=probe.gate,
        mask_nodes=probe.mask_nodes,
        info=_model_info(location.name, parts, facts, probe, settings, options),
        backend=_backend_info(parts, how, probe, settings, used),
        context_length=settings.context,
        warnings=warnings,
    )


# -- settings


def context_settings(model: Any, parts: Sequence[GgufFile], options: EngineOptions) -> ContextSettings:
    """Return the settings of the context of a run.

    Raises:
        UserError: the context is longer than the model supports.
    """
    trained = _trained_length(model)
    check_context(options.context, trained)
    context = options.context or min(trained, LONGEST_CONTEXT)
    kv_type = options.kv_type.lower() if options.kv_type else "f32" if llama_facts.is_float32(parts) else "f16"
    batch = max(MIN_BATCH, min(context, options.batch or max(PREFILL_STEP, options.micro_batch or 0)))
    return ContextSettings(
        context=context,
        threads=options.threads or default_threads(),
        on_gpu=bool(lib.llama_supports_gpu_offload()),
        exact=kv_type == "f32",
        kv_type=kv_type,
        batch=batch,
        micro_batch=min(batch, options.micro_batch or PREFILL_STEP),
    )


def _trained_length(model: Any) -> int:
    """Return the model's trained length in tokens; llama.cpp stores it unsigned and returns it signed."""
    return int(lib.llama_model_n_ctx_train(model)) % 2**32


def check_threads(threads: int | None) -> None:
    """Refuse a number of threads with which llama.cpp hangs or crashes; many more than cores are of no use.

    Raises:
        UserError: the number is out of range.
    """
    most = max(FEWEST_MOST_THREADS, min(MOST_THREADS, MOST_THREADS_PER_CORE * (os.cpu_count() or 1)))
    if threads is not None and not 1 <= threads <= most:
        raise UserError(f"--threads is {threads}", advice=f"give 1 to {most}")


def default_threads() -> int:
    """Return the number of cores minus one: llama.cpp's threads spin-wait, and stall when the screen needs a core."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, usable - 1)


# -- one token


def _probe(model: Any, name: str, parts: Sequence[GgufFile], settings: ContextSettings, token: int) -> Probe:
    """Evaluate one token in a separate context with a tap that reads more than the final one.

    Raises:
        UserError: the routers that llama.cpp evaluates contradict the file, or cannot be observed.
    """
    tap = ProbeTap(apart=settings.on_gpu)
    context = new_context(model, settings, tap)
    try:
        evaluate(context, [token])
        rows = sorted(tap.pop(), key=lambda rows: rows.layer)
    finally:
        lib.llama_free(context)
    if not (parts[0].number("expert_count") or 0):
        check_without_experts(name, [each.layer for each in rows])
        return Probe([], ABSENT_GATE, [], MaskNodes(problem="it is a dense model"))
    check_rows(rows)
    gate, warnings = read_gate(parts[0].architecture, rows, tap)
    return Probe(rows, gate, warnings, mask_nodes(tap.selections))


def _tap(probe: Probe, settings: ContextSettings) -> tuple[Tap, str]:
    """Return the final tap and its description."""
    if not probe.rows:
        return NoTap(), ""
    try:
        library = compiled_tap()
    except CannotCompile as why:
        return PythonTap(apart=settings.on_gpu, masked_at=probe.mask_nodes.names), f"{SLOW}: {why}"
    tap = CompiledTap(
        library,
        rows=max(PREFILL_STEP, settings.batch),
        layers=len(probe.layers),
        experts=probe.experts,
        experts_per_token=max(probe.k_by_layer),
        apart=settings.on_gpu,
        masked_at=probe.mask_nodes.names,
    )
    return tap, "a compiled callback"


def _check_tap(context: Any, tap: Tap, token: int, probe: Probe) -> None:
    """Check that the final tap reads the same layers as the probe.

    Raises:
        UserError: it does not.
    """
    if not probe.rows:
        return
    evaluate(context, [token])
    seen = sorted(tap.pop(), key=lambda rows: rows.layer)
    clear(context)
    check_rows(seen)
    if [rows.layer for rows in seen] != probe.layers or not (probe.gate is UNKNOWN or are_scores(probe.gate, seen)):
        raise UserError("the routing of this model cannot be observed reliably", advice="give another model")


# -- descriptions


def _model_info(
    name: str,
    parts: Sequence[GgufFile],
    facts: WeightFacts,
    probe: Probe,
    settings: ContextSettings,
    options: EngineOptions,
) -> ModelInfo:
    sizes = [facts.expert_bytes.get(layer) for layer in probe.layers]
    known = [size for size in sizes if size is not None]
    return ModelInfo(
        name=name,
        architecture=parts[0].architecture,
        layers=probe.layers,
        experts=probe.experts,
        experts_per_token=experts_per_token(probe.k_by_layer),
        own_experts_per_token=_own_k(parts[0], options.experts_per_token),
        gate=probe.gate.name,
        quantization=llama_facts.quantization(parts),
        parameters=facts.parameters,
        bytes=facts.bytes,
        expert_bytes=known if sizes and len(known) == len(sizes) else None,
        non_expert_bytes=facts.non_expert_bytes,
        context_length=settings.context,
        trained_length=llama_facts.trained_length(parts[0]),
        fingerprint=facts.fingerprint,
        expert_ids=expert_ids(record_of_gguf(parts[0]), probe.layers, probe.experts),
    )


def _own_k(file: GgufFile, another_k: int | None) -> int | UnsetType:
    """Return the file's number of experts per token; unset if the run uses it."""
    own = file.number("expert_used_count")
    return UNSET if another_k is None or own is None or own == another_k else own


def _context_settings(context: Any, settings: ContextSettings) -> dict[str, str | int | bool]:
    """Return the settings of the context, as llama.cpp reports them where it can."""
    return {
        "kv_type": settings.cache_type,
        "flash_attention": flash_attention(settings),
        "context": settings.context,
        "batch": lib.llama_n_batch(context),
        "micro_batch": lib.llama_n_ubatch(context),
    }


def _backend_info(
    parts: Sequence[GgufFile], how: str, probe: Probe, settings: ContextSettings, used: dict[str, str | int | bool]
) -> BackendInfo:
    read = "expert indices" if probe.gate is UNKNOWN else "expert indices and router scores"
    tap = f"{read}, copied once per MoE layer by {how}" if probe.rows else NO_TAP
    attention = "flash attention off" if settings.exact else "flash attention where it can"
    cache = f"{settings.cache_type.upper()} cache, {attention}"
    return BackendInfo(
        name="llama.cpp",
        version=f"llama-cpp-python {VERSION}",
        device=device_name(settings.on_gpu and used["gpu_layers"] != 0),
        threads=settings.threads,
        tap=tap,
        dtype=f"{llama_facts.stored_as(parts)}; {cache}",
        settings=used,
    )


def _warnings(model: Any, tokenizer: LlamaTokenizer, settings: ContextSettings, options: EngineOptions) -> list[str]:
    warnings = []
    trained = _trained_length(model)
    if trained > settings.context and options.context is None:
        warnings.append(f"the context is limited to {settings.context:,} of {trained:,} tokens, to save memory")
    if not tokenizer.eos_token_ids:
        warnings.append(NO_END_OF_TEXT)
    return warnings
