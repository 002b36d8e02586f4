"""Tensors of a checkpoint that the loaded model has not taken.

mlx-lm refuses tensors that fit nothing, but a family's `sanitize` may drop some before that without a word.
"""

from __future__ import annotations

import inspect
import io
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.utils import load_model

from backends.model_config import Config

Classes = tuple[type[nn.Module], type]

NEEDLESS = re.compile(
    r"rotary_emb|inv_freq|(^|\.)mtp|(^|\.)nextn|eagle|masked_bias|(^|\.)(lm_head|embed_out)\.|num_batches_tracked|"
    r"(^|[._])(vision|visual|audio|image|video|multi_modal|mm_|projector|patch)"
)
"""Tensors that no run of text needs: computed from the config, for drafting, tied to others, of pictures or sound."""
LAYER = re.compile(r"\.layers\.(\d+)\.")


@dataclass(slots=True)
class Dropped:
    """Records what `sanitize` of a model gives up; hand `classes` to mlx-lm's `load_model`."""

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
        dropped.arrays = {name: before[name] for name in _unused(before, after) if not _is_needless(name, layers)}
        return after

    return type(model_class.__name__, (model_class,), {"sanitize": sanitize, "__module__": model_class.__module__})


def _is_needless(name: str, layers: int) -> bool:
    """A layer beyond the last one drafts further tokens."""
    layer = LAYER.search(name)
    return NEEDLESS.search(name) is not None or (layer is not None and 0 < layers <= int(layer[1]))


def _unused(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Names of arrays that none of the others was made from. Nothing is computed: MLX's graph is read."""
    kept = {id(array) for array in after.values()}
    gone = {f"t{number}": name for number, name in enumerate(before) if id(before[name]) not in kept}
    if not gone:
        return []
    made = [array for array in after.values() if id(array) not in {id(each) for each in before.values()}]
    graph = io.StringIO()
    if made:
        mx.export_to_dot(graph, *made, **{label: before[name] for label, name in gone.items()})
    # Every named array is drawn, also one on its own: it was used if a line leads on from it.
    used = set(re.findall(r'^"(t\d+)" ->', graph.getvalue(), re.MULTILINE))
    return [name for label, name in gone.items() if label not in used]
