"""Loader of models with mlx-lm and a tap on their routers."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import msgspec
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import get_total_parameters, load_tokenizer

from moe_watch.backends.engine_options import check_context
from moe_watch.backends.ignored_settings import listed
from moe_watch.backends.layer_checks import check_same_experts
from moe_watch.backends.mlx.layers import moe_layers, unseen_experts
from moe_watch.backends.mlx.masks import groups_of
from moe_watch.backends.mlx.open_model import open_model
from moe_watch.backends.mlx.quantization import quantization_of, quantization_warnings
from moe_watch.backends.mlx.tap import RouterTap
from moe_watch.backends.model_files import config as model_config
from moe_watch.backends.model_files.catalog import ModelLocation
from moe_watch.backends.model_files.dense import THOUGH_EXPERTS, UNRELIABLE, check_without_experts, is_dense
from moe_watch.backends.model_files.preflight import read_tensor_tables
from moe_watch.backends.model_files.remote_code import files_with_code, needs_code
from moe_watch.backends.model_files.safetensors import AGAIN
from moe_watch.backends.model_files.selected_experts import (
    OPTION,
    own_experts_per_token,
    with_experts_per_token,
)
from moe_watch.backends.model_files.sizes import WeightFacts, weight_facts
from moe_watch.backends.protocol import EngineOptions
from moe_watch.backends.prune_record import expert_ids, record_of_config
from moe_watch.backends.system import out_of_memory
from moe_watch.backends.system.deferred_imports import complete
from moe_watch.backends.text.chat_template import no_template, of_hugging_face, variables_of_hugging_face
from moe_watch.backends.text.special_tokens import AddedTokens
from moe_watch.backends.text.token_ids import NO_END_OF_TEXT
from moe_watch.backends.text.tokenizer import TextCodec
from moe_watch.backends.text.tokenizer_file import TokenizerFile
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import BackendInfo, ModelInfo, Progress
from moe_watch.routing.header import NO_TAP, experts_per_token
from moe_watch.routing.router.gates import UNKNOWN_GATE

Report = Callable[[Progress], None]

COMPILING = "on first use on a machine, MLX compiles its kernels: some 20 s"
"""MLX calls the C++ compiler for CPU kernels, and keeps the results in the folder for temporary files."""

LACKING = re.compile(r"__init__\(\) missing \d+ required positional arguments?: (.+)")
"""Error of mlx-lm if a config lacks a required argument of the family; a newer version has the same error."""

HALF = (mx.float16, mx.bfloat16)

KV_TYPES = {mx.float32: "f32", mx.float16: "f16", mx.bfloat16: "bf16"}
"""Names as in `engine_options.KV_TYPES`."""

EMBEDDINGS = frozenset({"embed_tokens", "wte", "word_embeddings", "tok_embeddings", "embeddings", "embed", "embed_in"})
"""Names of the token embedding in model families."""

READ_STEP = 64_000_000
"""Bytes of weights read between two progress reports."""


@dataclass(frozen=True, slots=True, eq=False)
class LoadedMlxModel:
    """Loaded model with its tap in place."""

    model: nn.Module
    text: TextCodec
    tap: RouterTap
    info: ModelInfo
    backend: BackendInfo
    context_length: int
    vocabulary: int
    """Width of the logits."""
    embedded: int
    """Number of rows of the token embedding."""
    warnings: list[str]


@dataclass(frozen=True, slots=True)
class ProbedShape:
    """Facts about the model from one forward pass."""

    experts: int
    """0 for a dense model."""
    k_by_layer: list[int]
    """Experts per token of each MoE layer."""
    vocabulary: int
    kv_type: str | None
    """Type of the KV cache."""


def first_use() -> str | None:
    """Return a description of work that makes the first evaluations on this device slow; None if there is none."""
    return COMPILING if mx.default_device() == mx.Device(mx.cpu) else None


def load_model(location: ModelLocation, *, options: EngineOptions, progress: Report) -> LoadedMlxModel:
    """Load the weights, hook the routers, and evaluate one token to check that the tap reads all of them.

    Raises:
        UserError: mlx-lm cannot load it, or its experts cannot be observed.
    """
    if location.path is None:
        raise ValueError(f"{location.name} has not been fetched")
    config = model_config.read_config(location.path)
    longest = model_config.context_length(config)
    check_context(options.context, longest)
    context = options.context or longest
    tensors = read_tensor_tables(location.path)
    facts = weight_facts(config, tensors)
    beyond_memory = out_of_memory.beyond_memory(facts.bytes)
    loading = Progress(stage="loading", total=facts.bytes, unit="bytes", note=beyond_memory)
    progress(loading)
    model, text, settings = open_location(location, location.path, config, options)
    _check_groups(location.name, model, options.experts_per_token)
    quantized = quantization_of(model, tensors)
    stored = weights_dtype(model)
    computed = cast_for_device(model, stored)
    _wire_memory()
    _read_weights(location.name, model, loading, progress)
    progress(msgspec.structs.replace(loading, done=facts.bytes, note=first_use() or beyond_memory))
    tap = RouterTap(model)
    _check_experts(model, tap, location.name, is_dense=is_dense(config, tensors, location.name))
    shape = _probe(model, tap)
    _check_selected(location.name, tap, shape, options.experts_per_token)
    return LoadedMlxModel(
        model=model,
        text=text,
        tap=tap,
        info=_with_own_count(
            _model_info(location.name, config, facts, model, tap, shape, context, quantized), config, options
        ),
        backend=_backend_info(tap, stored, computed, _settings(context, shape, options)),
        context_length=context or sys.maxsize,
        vocabulary=shape.vocabulary,
        embedded=_embedded(model, shape.vocabulary),
        warnings=[
            *([beyond_memory] if beyond_memory else []),
            *settings,
            *quantization_warnings(quantized, config, location.path),
            *_warnings(text, config, context, shape.vocabulary),
        ],
    )


def open_location(
    location: ModelLocation, folder: Path, config: model_config.Config, options: EngineOptions
) -> tuple[nn.Module, TextCodec, list[str]]:
    """Return the model without reading its weights, its tokenizer, and warnings about settings.

    Raises:
        UserError: mlx-lm cannot load it, or not with this number of experts per token.
    """
    name, k, trusts = location.name, options.experts_per_token, options.trust_remote_code
    entries = None if k is None else with_experts_per_token(config, k, name)
    try:
        model, completed, settings = open_model(folder, config, trust_remote_code=trusts, entries=entries)
        ends = completed.get("eos_token_id")
        if location.origin == "embedded":
            small = TokenizerFile(folder, _ids(ends))
            return model, TextCodec(small, name, no_template, AddedTokens(small, small.variables)), settings
        complete()
        # Given in any case: without a value, transformers would ask on the terminal.
        tokenizer = load_tokenizer(folder, {"trust_remote_code": trusts}, eos_token_ids=ends)
    except Exception as error:  # model files are parsed by two libraries, which raise errors of many types
        traceback.print_exc()
        if not trusts and (code := files_with_code(folder, config)):
            raise needs_code(name, code) from error
        if lacking := LACKING.search(str(error)):
            raise UserError(f"the config.json of {name} lacks {lacking[1]}", advice=AGAIN) from error
        reason = next(iter(str(error).splitlines()), "").rstrip(" :") or type(error).__name__
        if k is not None and k != model_config.selected_count(config):
            raise UserError(
                f"{OPTION} is {k}, and mlx-lm {version('mlx-lm')} cannot load {name} so ({reason})",
                advice=f"leave out {OPTION}",
            ) from error
        advice = "install the missing package" if "pip install" in reason else "try a newer mlx-lm or another model"
        raise UserError(f"mlx-lm {version('mlx-lm')} cannot load {name} ({reason})", advice=advice) from error
    special = AddedTokens(tokenizer, partial(variables_of_hugging_face, tokenizer))
    return model, TextCodec(tokenizer, name, partial(of_hugging_face, tokenizer), special), settings


def _ids(ends: list[int] | int | None) -> list[int]:
    """Return end-of-text ids of a config, which may be one number, as a list."""
    return [ends] if isinstance(ends, int) else ends or []


# -- weights


def _arrays(model: nn.Module) -> list[Any]:
    return [array for _, array in tree_flatten(model.parameters())]


def weights_dtype(model: nn.Module) -> Any:
    """Return the floating-point type of most of the model's numbers; the type of the scales if it is quantized."""
    sizes: dict[Any, int] = {}
    for array in _arrays(model):
        if mx.issubdtype(array.dtype, mx.floating):
            sizes[array.dtype] = sizes.get(array.dtype, 0) + array.size
    return max(sizes, key=lambda dtype: sizes[dtype])


def cast_for_device(model: nn.Module, stored: Any) -> Any:
    """Cast weights if the device needs it, and return the type of the computation.

    On the CPU, MLX gathers float32 or quantized experts only.
    """
    is_quantized = any(hasattr(module, "bits") for module in model.modules())
    if mx.default_device() != mx.Device(mx.cpu) or stored not in HALF or is_quantized:
        return stored
    model.set_dtype(mx.float32)
    return mx.float32


def _wire_memory() -> None:
    """Wire the weights in the GPU's memory, up to the size that the device recommends (Apple silicon reports one)."""
    limit = mx.device_info().get("max_recommended_working_set_size")
    if limit is not None:
        mx.set_wired_limit(int(limit))


def _read_weights(name: str, model: nn.Module, loading: Progress, progress: Report) -> None:
    """Read the weights in steps, and report progress.

    Raises:
        UserError: MLX cannot read them.
    """
    arrays = _arrays(model)
    total = sum(array.nbytes for array in arrays)
    done, waiting = 0, 0
    batch: list[Any] = []
    for array in arrays:
        batch.append(array)
        waiting += array.nbytes
        if waiting >= READ_STEP or array is arrays[-1]:
            _read(name, batch)
            batch, done, waiting = [], done + waiting, 0
            progress(msgspec.structs.replace(loading, done=(loading.total or 0) * done // total))


def _read(name: str, arrays: list[Any]) -> None:
    try:
        mx.eval(arrays)
    except RuntimeError as error:
        # The files were checked and are complete: on the CPU, MLX reports a read error if it has no memory.
        traceback.print_exc()
        raise UserError(
            f"mlx {version('mlx')} cannot load the weights of {name} into memory ({error})",
            advice=out_of_memory.SMALLER_MODEL,
        ) from error


def _check_experts(model: nn.Module, tap: RouterTap, name: str, *, is_dense: bool) -> None:
    """Check that the MoE layers of the loaded model agree with its files.

    Raises:
        UserError: a model that is dense by its files has experts, or the experts of another one were not found.
    """
    if not is_dense and not tap.layers:
        raise UserError(f"no MoE layer was found in this model, {THOUGH_EXPERTS}", advice="give another model")
    if not is_dense:
        return
    check_without_experts(name, [layer.index for layer in tap.layers])
    if (path := unseen_experts(model)) is not None:
        raise UserError(
            f"{name} is dense by its files, but mlx-lm's {path} is a module for experts: {UNRELIABLE}",
            advice="give another model",
        )


def _probe(model: nn.Module, tap: RouterTap) -> ProbedShape:
    """Evaluate one token, and check the tap's capture of it."""
    cache = make_prompt_cache(model)
    logits = model(mx.array([[0]]), cache=cache)
    mx.eval(logits)
    unseen = [
        layer.index
        for layer, experts, logits in zip(tap.layers, tap.frame.experts, tap.frame.logits, strict=True)
        if experts is None or (logits is None and layer.gate is not None)
    ]
    if unseen:
        raise UserError(f"the routing of layers {unseen} cannot be observed", advice="give another model")
    check_same_experts([(layer.index, layer.experts) for layer in tap.layers])
    k_by_layer = [caught.shape[-1] for caught in tap.frame.experts]
    experts = tap.layers[0].experts if tap.layers else 0
    return ProbedShape(experts, k_by_layer, logits.shape[-1], _cache_type(cache))


def _check_groups(name: str, model: nn.Module, k: int | None) -> None:
    """Check, before the weights are read, that the groups which a router selects hold k experts.

    Raises:
        UserError: they hold fewer; experts of other groups would be selected.
    """
    layers = list(moe_layers(model))
    groups = None if k is None else groups_of(layers)
    if k is None or groups is None:
        return
    most = layers[0].experts // groups.count * groups.used
    if k > most:
        raise UserError(
            f"{OPTION} is {k}, and a token's {groups.used} groups of {name} hold {most} experts",
            advice=f"give 1 to {most}",
        )


def _check_selected(name: str, tap: RouterTap, shape: ProbedShape, k: int | None) -> None:
    """Check that the loaded model selects the requested number of experts.

    Raises:
        UserError: a layer selects another number.
    """
    selected = zip(tap.layers, shape.k_by_layer, strict=True)
    other = next(((layer.index, number) for layer, number in selected if k not in (None, number)), None)
    if other is not None:
        raise UserError(
            f"{OPTION} is {k}, and mlx-lm selects {other[1]} experts in layer {other[0]} of {name} all the same",
            advice=f"leave out {OPTION}",
        )


def _embedded(model: nn.Module, vocabulary: int) -> int:
    """Return the number of rows of the token embedding; `vocabulary` if the embedding has an unusual name.

    Every token that can be sampled has a row: mlx-lm sizes both by the config, and refuses other weights.
    """
    embeddings = (nn.Embedding, nn.QuantizedEmbedding)
    found = (m for path, m in model.named_modules() if isinstance(m, embeddings) and path.split(".")[-1] in EMBEDDINGS)
    rows = [int(module.weight.shape[0]) for module in found]
    return min(rows, default=vocabulary)


def _cache_type(cache: list[Any]) -> str | None:
    """Return the type of the KV cache of all layers; None if there are several types, or none is visible."""
    kept = {keys.dtype for layer in cache if (keys := getattr(layer, "keys", None)) is not None}
    return KV_TYPES.get(kept.pop()) if len(kept) == 1 else None


# -- descriptions


def _model_info(
    name: str,
    config: model_config.Config,
    facts: WeightFacts,
    model: nn.Module,
    tap: RouterTap,
    shape: ProbedShape,
    context: int | None,
    quantized: str | None,
) -> ModelInfo:
    layers = [layer.index for layer in tap.layers]
    sizes = [facts.expert_bytes.get(layer) for layer in layers]
    known = [size for size in sizes if size is not None]
    return ModelInfo(
        name=name,
        architecture=str(config.get("model_type", "unknown")),
        layers=layers,
        experts=shape.experts,
        experts_per_token=experts_per_token(shape.k_by_layer),
        gate=tap.gate,
        quantization=quantized,
        parameters=facts.parameters or int(get_total_parameters(model)),
        bytes=facts.bytes,
        expert_bytes=known if layers and len(known) == len(layers) else None,
        non_expert_bytes=facts.non_expert_bytes,
        context_length=context,
        trained_length=model_config.trained_length(config),
        fingerprint=facts.fingerprint,
        expert_ids=expert_ids(record_of_config(config), layers, shape.experts),
    )


def _with_own_count(info: ModelInfo, config: model_config.Config, options: EngineOptions) -> ModelInfo:
    """Return the description with the model's own number of experts per token, if the run uses another one."""
    own = None if options.experts_per_token is None else own_experts_per_token(config, info.layers)
    if own in (None, info.experts_per_token):
        return info
    return msgspec.structs.replace(info, own_experts_per_token=own)


def _settings(context: int | None, shape: ProbedShape, options: EngineOptions) -> dict[str, str | int | bool]:
    """Return the settings in the form of `BackendInfo.settings`, without unknown and unlimited ones."""
    known: dict[str, str | int | None] = {
        "kv_type": shape.kv_type,
        "context": context,
        "experts_per_token": options.experts_per_token,
        "trust_remote_code": options.trust_remote_code or None,
    }
    return {name: value for name, value in known.items() if value is not None}


def _backend_info(tap: RouterTap, stored: Any, computed: Any, settings: dict[str, str | int | bool]) -> BackendInfo:
    device = mx.default_device()
    kind = "CPU" if device == mx.Device(mx.cpu) else "GPU"
    known = "expert indices, router logits and weights" if tap.sees_weights else "expert indices and router logits"
    read = "expert indices" if tap.gate == UNKNOWN_GATE else known
    return BackendInfo(
        name="mlx",
        version=f"mlx-lm {version('mlx-lm')}, mlx {version('mlx')}",
        device=f"{kind} ({mx.device_info().get('device_name', 'unnamed')})",
        tap=f"{read}, hooked lazily in every MoE layer" if tap.layers else NO_TAP,
        dtype=_type_name(computed)
        if computed == stored
        else f"{_type_name(computed)} (stored as {_type_name(stored)})",
        settings=settings,
    )


def _type_name(dtype: Any) -> str:
    return str(dtype).rpartition(".")[2]


def _warnings(text: TextCodec, config: model_config.Config, context: int | None, vocabulary: int) -> list[str]:
    warnings = model_config.rope_warnings(config)
    beyond = sorted(token for token in text.ends if not 0 <= token < vocabulary)
    if beyond:
        warnings.append(f"end-of-text tokens {listed([str(token) for token in beyond])} are not in the vocabulary")
    if len(beyond) == len(text.ends):
        warnings.append(NO_END_OF_TEXT)
    if context is None:
        impossible = model_config.impossible_length(config)
        has = "no context length" if impossible is None else f"an impossible context length, {impossible}"
        warnings.append(f"config.json has {has}: give --context, or a run ends only when it is stopped")
    return warnings
