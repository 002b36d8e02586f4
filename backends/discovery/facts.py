"""Facts of a model for a list, from headers and metadata. No weight is read, and no vocabulary."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from moe_watch.backends.discovery.candidates import CONFIG, ModelCandidate
from moe_watch.backends.memory.quick import estimate_folder, estimate_gguf
from moe_watch.backends.model_files.config import Config, expert_count, layer_count, read_config, selected_count
from moe_watch.backends.model_files.gguf import GgufFile, read_parts
from moe_watch.backends.model_files.gguf_checks import ROUTER
from moe_watch.backends.model_files.preflight import check_config, check_parts, other_than_a_model, read_tensor_tables
from moe_watch.backends.model_files.safetensors import TensorInfo
from moe_watch.backends.model_files.sizes import moe_layers
from moe_watch.backends.model_files.stored_types import claimed_quantization, shares, stored_quantization
from moe_watch.backends.prune_record import PruneRecord, record_of_config, record_of_gguf
from moe_watch.backends.system.regular_files import read_regular
from moe_watch.routing.errors import UserError
from moe_watch.routing.header import experts_per_token

FORMAT = 2
"""Version of the cached facts. It changes with their meaning."""

TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json", "additional_chat_templates")
"""Names under which transformers searches for a chat template, beside `tokenizer_config.json`."""

Cached = TypeVar("Cached", bound=msgspec.Struct)


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Facts of one model. A number that the files do not give is None."""

    architecture: str | None = None
    blocks: int | None = None
    """All layers, dense ones included."""
    layers: int | None = None
    """MoE layers."""
    experts: int | None = None
    experts_per_token: int | list[int] | None = None
    whole_experts: int | None = None
    """Experts before pruning; None for a whole model."""
    quantization: str | None = None
    """Types of the tensors, or the settings of their quantization."""
    weight_bytes: int = 0
    """Size of the weight files."""
    template: bool | None = None
    needed_bytes: int | None = None
    """Estimate of the memory at the default context."""
    kind: str = ""
    """Description of a file that is no model; empty for a model."""
    problem: str = ""
    """Reason why the model cannot be used; empty if there is none."""


FileState = tuple[str, int, int, int]
"""Path, size in bytes, and times of the last change of content and status in nanoseconds."""


class CachedFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Facts, and the state of the files that they were read from."""

    format: int
    files: list[FileState]
    facts: ModelFacts


class FactsCache(Protocol):
    """Results by file, valid while the file's size and time are unchanged."""

    def get(self, path: Path, status: os.stat_result, kind: type[Cached], /) -> Cached | None: ...

    def put(self, path: Path, status: os.stat_result, result: msgspec.Struct, /) -> None: ...

    def save(self) -> None: ...


def facts_of(candidate: ModelCandidate, cache: FactsCache) -> ModelFacts:
    """Return the facts of a candidate, from the cache while none of its files has changed."""
    if candidate.problem:
        return ModelFacts(problem=candidate.problem, weight_bytes=_total(candidate.files))
    key = candidate.path if candidate.format == "gguf" else candidate.path / CONFIG
    try:
        status = key.stat()
    except OSError:
        return _read(candidate)
    state = [_state(path) for path in candidate.files]
    cached = cache.get(key, status, CachedFacts)
    if cached is not None and (cached.format, cached.files) == (FORMAT, state):
        return cached.facts
    facts = _read(candidate)
    cache.put(key, status, CachedFacts(format=FORMAT, files=state, facts=facts))
    return facts


def _state(path: Path) -> FileState:
    name = os.fsencode(path).decode("utf-8", "backslashreplace")
    try:
        status = path.stat()
    except OSError:
        return name, -1, 0, 0
    # The status time changes with permissions, on which readability depends.
    return name, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _total(files: Sequence[Path]) -> int:
    return sum(max(0, _state(path)[1]) for path in files)


def _read(candidate: ModelCandidate) -> ModelFacts:
    read = _gguf_facts if candidate.format == "gguf" else _folder_facts
    weights = candidate.files if candidate.format == "gguf" else _weight_files(candidate)
    try:
        return read(candidate, _total(weights))
    except UserError as error:
        return ModelFacts(problem=_problem(candidate, error), weight_bytes=_total(weights))


def _checked(candidate: ModelCandidate, facts: ModelFacts, error: UserError) -> ModelFacts:
    """Return the facts of a readable model that cannot be run."""
    return msgspec.structs.replace(facts, problem=_problem(candidate, error))


def _problem(candidate: ModelCandidate, error: UserError) -> str:
    """Return the reason with the model's short name in place of its path."""
    inside = error.what.replace(f"{candidate.path}{os.sep}", "").replace(str(candidate.path), candidate.label)
    return inside.replace(f"{candidate.path.parent}{os.sep}", "")


def _whole_experts(record: PruneRecord | None) -> int | None:
    return None if record is None else record.experts


# -- GGUF


def _gguf_facts(candidate: ModelCandidate, size: int) -> ModelFacts:
    parts = read_parts(candidate.path, digests=False)
    first, tensors = parts[0], [tensor for part in parts for tensor in part.tensors]
    if (kind := other_than_a_model(first)) is not None:
        return ModelFacts(kind=kind, weight_bytes=size)
    experts = first.number("expert_count") or 0
    is_dense = experts < 2
    layers = 0 if is_dense else len(_routed(first, tensors))
    weights = sum(tensor.bytes for tensor in tensors)
    is_float32 = {tensor.dtype for tensor in tensors} == {"F32"}
    facts = ModelFacts(
        architecture=first.architecture or None,
        blocks=first.number("block_count"),
        layers=layers,
        experts=0 if is_dense else experts,
        experts_per_token=0 if is_dense else _gguf_selected(first),
        whole_experts=_whole_experts(record_of_gguf(first)),
        quantization=shares(tensors),
        weight_bytes=size,
        template=bool(first.metadata.get("tokenizer.chat_template")),
        needed_bytes=estimate_gguf(first, weights, is_float32=is_float32).total,
    )
    try:
        check_parts(candidate.label, candidate.path, parts)
    except UserError as error:
        return _checked(candidate, facts, error)
    return facts


def _routed(first: GgufFile, tensors: Sequence[TensorInfo]) -> set[int]:
    """Return the layers with a router, without layers that only draft further tokens (MTP): no engine runs them."""
    found = {int(match[1]) for tensor in tensors if (match := ROUTER.fullmatch(tensor.name))}
    run = (first.number("block_count") or len(found)) - (first.number("nextn_predict_layers") or 0)
    return {layer for layer in found if layer < run}


def _gguf_selected(first: GgufFile) -> int | list[int] | None:
    by_layer = first.array("expert_used_count")
    if by_layer is None:
        return first.number("expert_used_count")
    counts = [count for count in by_layer if count > 0]  # 0 is a dense layer
    return experts_per_token(counts) if counts else None


# -- folders in Hugging Face layout


def _weight_files(candidate: ModelCandidate) -> list[Path]:
    return [path for path in candidate.files if path.name.startswith("model") and path.name.endswith(".safetensors")]


def _folder_facts(candidate: ModelCandidate, size: int) -> ModelFacts:
    folder = candidate.path
    config = read_config(folder)
    tensors = read_tensor_tables(folder)
    experts = expert_count(config) or 0
    kind = config.get("model_type")
    facts = ModelFacts(
        architecture=kind if isinstance(kind, str) else None,
        blocks=layer_count(config),
        layers=_moe_layers(config, tensors) if experts else 0,
        experts=experts,
        experts_per_token=selected_count(config) if experts else 0,
        whole_experts=_whole_experts(record_of_config(config)),
        quantization=_quantization(config, folder, tensors),
        weight_bytes=size,
        template=_has_template(folder),
        needed_bytes=estimate_folder(config, tensors).total,
    )
    try:
        check_config(candidate.label, folder, config, tensors)
    except UserError as error:
        return _checked(candidate, facts, error)
    return facts


def _moe_layers(config: Config, tensors: Sequence[TensorInfo]) -> int:
    """Return the number of MoE layers, without those after the last layer, which only draft further tokens (MTP)."""
    found = moe_layers(tensors)
    run = layer_count(config)
    return len(found if run is None else {layer for layer in found if layer < run})


def _quantization(config: Config, folder: Path, tensors: Sequence[TensorInfo]) -> str:
    """Return the claimed quantization if the tensors are quantized; the tensors' types decide."""
    stored = stored_quantization(tensors)
    if stored is None:
        return shares(tensors)
    claim = claimed_quantization(config, folder)
    return stored if claim is None else claim[0]


def _has_template(folder: Path) -> bool:
    if any((folder / name).exists() for name in TEMPLATE_FILES):
        return True
    try:
        settings = json.loads(read_regular(folder / "tokenizer_config.json"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(settings, dict) and bool(settings.get("chat_template"))
