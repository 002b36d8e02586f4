"""Tensors of a checkpoint that the loaded model does not use.

mlx-lm refuses tensors without a parameter, but a family's `sanitize` may silently drop some before.
"""

from __future__ import annotations

import inspect
import io
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.utils import load_model

from moe_watch.backends.model_files.config import Config

Classes = tuple[type[nn.Module], type]
Arrays = dict[str, Any]
"""Arrays of MLX by name."""

NEEDLESS = re.compile(
    r"rotary_emb|inv_freq|(^|\.)mtp|(^|\.)nextn|eagle|masked_bias|(^|\.)(lm_head|embed_out)\.|num_batches_tracked|"
    r"(^|[._])(vision|visual|audio|image|video|multi_modal|mm_|projector|patch)"
)
"""Tensors that text does not need: computed from the config, for drafting, tied to others, of images or sound."""
KEYS_AND_VALUES = re.compile(r"\.self_attn\.(k_proj|v_proj|k_norm|v_norm)\.")
MOST_NAMED = 1000
"""Largest number of arrays that MLX can label in one graph."""
LAYER = re.compile(r"\.layers\.(\d+)\.")


@dataclass(slots=True)
class Dropped:
    """Record of the tensors that a model's `sanitize` drops; pass `classes` to mlx-lm's `load_model`."""

    arrays: Arrays = field(default_factory=dict)
    """Tensors that no parameter is computed from, by their names in the checkpoint."""

    def classes(self, config: Config) -> Classes:
        """Return mlx-lm's classes for a config, with a wrapped `sanitize`."""
        model_class, args_class = mlx_lm_classes(config)
        return _watched(model_class, self) if hasattr(model_class, "sanitize") else model_class, args_class


def mlx_lm_classes(config: Config) -> Classes:
    """Return mlx-lm's classes of a model and of its arguments for a config."""
    find: Callable[..., Classes] = inspect.signature(load_model).parameters["get_model_classes"].default
    return find(config=config)


def _watched(model_class: type[nn.Module], dropped: Dropped) -> type[nn.Module]:
    def sanitize(self: Any, weights: Arrays) -> Arrays:
        self.__class__ = model_class
        before = dict(weights)
        after: Arrays = self.sanitize(weights)
        layers = len(getattr(self, "layers", ()))
        shared = int(getattr(getattr(self, "args", None), "num_kv_shared_layers", 0) or 0)
        needed = {name: array for name, array in before.items() if not _is_needless(name, layers, shared)}
        dropped.arrays = {name: before[name] for name in _unused(needed, after)}
        return after

    return type(model_class.__name__, (model_class,), {"sanitize": sanitize, "__module__": model_class.__module__})


def _is_needless(name: str, layers: int, shared: int) -> bool:
    """Return whether text does not need a tensor.

    Layers beyond the last one draft further tokens; the last `shared` layers use keys and values of earlier ones.
    """
    if NEEDLESS.search(name) is not None:
        return True
    if (found := LAYER.search(name)) is None or layers == 0:
        return False
    layer = int(found[1])
    return layer >= layers or (layer >= layers - shared and KEYS_AND_VALUES.search(name) is not None)


def _unused(before: Arrays, after: Arrays) -> list[str]:
    """Return the names of arrays that no output depends on in MLX's graph; nothing is computed.

    Each layer's arrays are first searched in the outputs of that layer, because graphs of whole models are large.
    """
    if not _graphs_are_readable():
        return []
    taken = {id(array) for array in before.values()}
    kept = {id(array) for array in after.values()}
    made = {name: array for name, array in after.items() if id(array) not in taken}
    gone = [name for name, array in before.items() if id(array) not in kept]
    outputs = _by_layer(made)
    left: list[str] = []
    for layer, names in _by_layer(gone).items():
        left += _not_in_graph(names, before, [made[name] for name in outputs.get(layer, [])])
    return _not_in_graph(left, before, list(made.values()))


def _by_layer(names: Iterable[str]) -> dict[str | None, list[str]]:
    found: dict[str | None, list[str]] = defaultdict(list)
    for name in names:
        layer = LAYER.search(name)
        found[layer and layer[1]].append(name)
    return found


def _not_in_graph(names: Sequence[str], arrays: Arrays, made: list[Any]) -> list[str]:
    """Return the names of arrays without an outgoing edge in the graph of the outputs."""
    missing: list[str] = []
    for start in range(0, len(names), MOST_NAMED):
        labels = {f"t{number}": name for number, name in enumerate(names[start : start + MOST_NAMED])}
        used = _used(made, {label: arrays[name] for label, name in labels.items()}) if made else set()
        missing += [name for label, name in labels.items() if label not in used]
    return missing


def _used(made: list[Any], named: Arrays) -> set[str]:
    """Return the names of arrays with an outgoing edge. The graph also contains arrays without edges."""
    graph = io.StringIO()
    mx.export_to_dot(graph, made, **named)
    return set(re.findall(r'^"(t\d+)" ->', graph.getvalue(), re.MULTILINE))


@cache
def _graphs_are_readable() -> bool:
    """Return whether this MLX writes graphs in the known format; if not, dropped tensors are not searched."""
    used, unused = mx.zeros((1,)), mx.zeros((1,))
    try:
        return _used([mx.stack([used])], {"t0": used, "t1": unused}) == {"t0"}
    except Exception:  # a function for debugging, whose errors are not specified
        return False
