"""Memory that MLX takes for a model, from its lazy arrays: shapes and types are known before any weight is read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache

from moe_watch.backends.engine_options import check_context
from moe_watch.backends.engine_sizes import BufferSizes, EngineSizes
from moe_watch.backends.mlx.loading import KV_TYPES, READ_STEP, cast_for_device, open_location, weights_dtype
from moe_watch.backends.model_files import config as model_config
from moe_watch.backends.model_files.catalog import ModelLocation
from moe_watch.backends.model_files.preflight import read_tensor_tables
from moe_watch.backends.model_files.selected_experts import with_experts_per_token
from moe_watch.backends.model_files.sizes import EXPERT_CONTAINERS
from moe_watch.backends.protocol import EngineOptions

PREFILL_STEP = 512
"""Prompt tokens evaluated in one step, as in `backends.mlx.engine`."""

ARRAYS_OF_WIDTH = 10
"""Arrays [tokens, hidden size] that are in memory at once beside the experts' arrays."""

ONE_EXPERT = re.compile(r"\.experts\.\d+\.")
"""Part of the name of a tensor of a single expert."""

UNKNOWN_CONTEXT = 8192
"""Tokens that are assumed if neither the config nor the user gives a length."""


def engine_sizes(location: ModelLocation, options: EngineOptions, runtime: Callable[[], int]) -> EngineSizes:
    """Return the memory that MLX takes for a model. No weight is read.

    Args:
        location: location of the model on this machine.
        options: options of a run.
        runtime: measures the memory of this process, in bytes; called while the model is open.

    Raises:
        UserError: mlx-lm cannot load the model.
    """
    if location.path is None:
        raise ValueError(f"{location.name} has not been fetched")
    config = model_config.read_config(location.path)
    if options.experts_per_token is not None:
        config |= with_experts_per_token(config, options.experts_per_token, location.name)
    longest = model_config.context_length(config)
    check_context(options.context, longest)
    context = options.context or longest or UNKNOWN_CONTEXT
    model, _, _ = open_location(location, location.path, config, options)
    found = weights_dtype(model)
    computed = cast_for_device(model, found)
    sizes = {path: array.nbytes for path, array in tree_flatten(model.parameters())}
    cache = make_prompt_cache(model)
    model(mx.array([[0]]), cache=cache)  # is not evaluated: the cache gets the shapes of its arrays
    kept = list(_states(cache))
    kept_bytes = [_state_bytes(state, context) for state in kept]
    stored = {tensor.name for tensor in read_tensor_tables(location.path)}
    on_gpu = mx.default_device() != mx.Device(mx.cpu)
    kinds = {keys.dtype for keys in (getattr(state, "keys", None) for state in kept) if keys is not None}
    return EngineSizes(
        buffers=[
            BufferSizes(
                name="GPU, unified memory" if on_gpu else "CPU",
                on_host=True,
                weights=sum(sizes.values()),
                kv=sum(kept_bytes),
                compute=_activations(config, context, computed.size, max(kept_bytes, default=0), on_gpu=on_gpu),
                free=_recommended(),
            )
        ],
        runtime=runtime(),
        context=context,
        kv_type=KV_TYPES.get(kinds.pop()) if len(kinds) == 1 else None,
        loading=_loading(
            list(sizes.values()), is_cast=computed != found, is_stacked=any(ONE_EXPERT.search(name) for name in stored)
        ),
        expert=sum(size for path, size in sizes.items() if not EXPERT_CONTAINERS.isdisjoint(path.split("."))),
    )


def _recommended() -> int | None:
    """Return the memory that the GPU of a Mac may wire; None if there is no such limit."""
    limit = mx.device_info().get("max_recommended_working_set_size")
    return None if limit is None else int(limit)


# -- KV cache


def _states(cache: list[Any]) -> Iterator[Any]:
    """Yield the caches of all layers; a layer may have several."""
    for layer in cache:
        nested = getattr(layer, "caches", None)
        if nested is None:
            yield layer
        else:
            yield from _states(list(nested))


def _state_bytes(state: Any, context: int) -> int:
    """Return the size of one cache at the full context, in bytes.

    Attention caches grow by steps of `step` tokens; a rotating one keeps `max_size`, and a prefill step more.
    """
    keys, values = getattr(state, "keys", None), getattr(state, "values", None)
    if not isinstance(keys, mx.array) or not isinstance(values, mx.array):
        return int(sum(array.nbytes for _, array in tree_flatten(state.state) if isinstance(array, mx.array)))
    step = getattr(state, "step", 1)
    rows = -(-context // step) * step
    longest = getattr(state, "max_size", None)
    if isinstance(longest, int) and longest > 0:
        rows = min(rows, longest + PREFILL_STEP)
    return int((keys.nbytes // keys.shape[2] + values.nbytes // max(1, values.shape[2])) * rows)


# -- activations


def _activations(config: model_config.Config, context: int, number: int, layer_kv: int, *, on_gpu: bool) -> int:
    """Return an estimate of the arrays of one prefill step that are in memory at once, in bytes.

    On the CPU, MLX keeps the attention scores of all heads; on a GPU its kernel is fused. The number of arrays of the
    model's width is measured (docs/memory.md).

    Args:
        config: content of config.json.
        context: length of the context in tokens.
        number: bytes of one number.
        layer_kv: bytes of the largest cache of a layer, which is copied when it grows.
        on_gpu: MLX computes on a GPU.
    """
    section = model_config.text_section(config)
    step = min(PREFILL_STEP, context)
    hidden = _number(section, "hidden_size")
    width = _number(section, "moe_intermediate_size") or _number(section, "intermediate_size")
    chosen = next(filter(None, (_number(section, key) for key in model_config.SELECTED_COUNTS)), 0)
    scores = 0 if on_gpu else _number(section, "num_attention_heads") * step * context * number
    experts = chosen * (2 * hidden + 2 * width) * number
    others = ARRAYS_OF_WIDTH * hidden * (number if on_gpu else 4)  # the CPU computes norms and rotations in float32
    return scores + layer_kv + step * (experts + others)


def _number(section: model_config.Config, key: str) -> int:
    value = section.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


# -- loading


def _loading(sizes: Sequence[int], *, is_cast: bool, is_stacked: bool) -> int:
    """Return the largest memory while the weights are read in steps, in bytes.

    Sources are in memory beside their results: all sources of one step if they are cast from half precision, and the
    sources of one array if it is stacked from the tensors of single experts.

    Args:
        sizes: bytes of all arrays, in the order of loading.
        is_cast: the weights are cast from half precision to float32.
        is_stacked: the files have one tensor per expert.
    """
    largest = waiting = 0
    for size in sizes:
        waiting += size
        largest = max(largest, waiting)
        waiting = 0 if waiting >= READ_STEP else waiting
    sources = largest // 2 if is_cast else 0
    stacked = max(sizes, default=0) // (2 if is_cast else 1) if is_stacked else 0
    return sum(sizes) + sources + stacked
