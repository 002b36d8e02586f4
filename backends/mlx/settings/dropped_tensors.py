"""Tensors of a checkpoint that the loaded model has not taken.

mlx-lm refuses tensors that fit nothing, but a family's `sanitize` may drop some before that without a word.
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

NEEDLESS = re.compile(
    r"rotary_emb|inv_freq|(^|\.)mtp|(^|\.)nextn|eagle|masked_bias|(^|\.)(lm_head|embed_out)\.|num_batches_tracked|"
    r"(^|[._])(vision|visual|audio|image|video|multi_modal|mm_|projector|patch)"
)
"""Tensors that no run of text needs: computed from the config, for drafting, tied to others, of pictures or sound."""
KEYS_AND_VALUES = re.compile(r"\.self_attn\.(k_proj|v_proj|k_norm|v_norm)\.")
MOST_NAMED = 1000
"""Arrays that MLX can label in one graph."""
LAYER = re.compile(r"\.layers\.(\d+)\.")


@dataclass(slots=True)
class Dropped:
    """Record of the tensors that `sanitize` of a model drops; hand `classes` to mlx-lm's `load_model`."""

    arrays: dict[str, Any] = field(default_factory=dict)
    """The tensors that no parameter comes from, by their names in the checkpoint."""

    def classes(self, config: Config) -> Classes:
        """Return mlx-lm's classes for a config, with a `sanitize` that is watched."""
        model_class, args_class = mlx_lm_classes(config)
        return _watched(model_class, self) if hasattr(model_class, "sanitize") else model_class, args_class


def mlx_lm_classes(config: Config) -> Classes:
    """Return the classes of a model and of its arguments that mlx-lm has for a config."""
    find: Callable[..., Classes] = inspect.signature(load_model).parameters["get_model_classes"].default
    return find(config=config)


def _watched(model_class: type[nn.Module], dropped: Dropped) -> type[nn.Module]:
    def sanitize(self: Any, weights: dict[str, Any]) -> dict[str, Any]:
        self.__class__ = model_class
        before = dict(weights)
        after: dict[str, Any] = self.sanitize(weights)
        layers = len(getattr(self, "layers", ()))
        shared = int(getattr(getattr(self, "args", None), "num_kv_shared_layers", 0) or 0)
        needed = {name: array for name, array in before.items() if not _is_needless(name, layers, shared)}
        dropped.arrays = {name: before[name] for name in _unused(needed, after)}
        return after

    return type(model_class.__name__, (model_class,), {"sanitize": sanitize, "__module__": model_class.__module__})


def _is_needless(name: str, layers: int, shared: int) -> bool:
    """Layers beyond the last one draft further tokens; the last `shared` ones take keys and values of earlier ones."""
    if NEEDLESS.search(name) is not None:
        return True
    if (found := LAYER.search(name)) is None or layers == 0:
        return False
    layer = int(found[1])
    return layer >= layers or (layer >= layers - shared and KEYS_AND_VALUES.search(name) is not None)


def _unused(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return the names of arrays that nothing was made from, by MLX's graph; nothing is computed.

    Each layer's arrays are looked for in what was made for that layer first, for graphs of whole models are large.
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


def _not_in_graph(names: Sequence[str], arrays: dict[str, Any], made: list[Any]) -> list[str]:
    """Return the names of arrays that no line leads on from, in the graph of what was made."""
    missing: list[str] = []
    for start in range(0, len(names), MOST_NAMED):
        labels = {f"t{number}": name for number, name in enumerate(names[start : start + MOST_NAMED])}
        used = _used(made, {label: arrays[name] for label, name in labels.items()}) if made else set()
        missing += [name for label, name in labels.items() if label not in used]
    return missing


def _used(made: list[Any], named: dict[str, Any]) -> set[str]:
    """Return the names of arrays that a line leads on from. Each is drawn, also one on its own."""
    graph = io.StringIO()
    mx.export_to_dot(graph, made, **named)
    return set(re.findall(r'^"(t\d+)" ->', graph.getvalue(), re.MULTILINE))


@cache
def _graphs_are_readable() -> bool:
    """Return whether this MLX writes graphs in the known format; if not, dropped tensors are not looked for."""
    used, unused = mx.zeros((1,)), mx.zeros((1,))
    try:
        return _used([mx.stack([used])], {"t0": used, "t1": unused}) == {"t0"}
    except Exception:  # whatever a function that is made for drawing may come to raise
        return False
