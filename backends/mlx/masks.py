"""Masks on the routers of an mlx-lm model (read in mlx-lm 0.32.2): a masked expert is never selected.

−∞ replaces the masked experts' logits, which the router's linear module outputs, and their selection biases, where
there are any: a bias is added to the scores, so that a score of 0 could still be selected. A router with only a weight
has no module between its product and the scores; there the bias alone is replaced. That is the same for scores that
do not depend on other experts (sigmoid, √softplus). Everything after the selection is the model's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from moe_watch.backends.engine import Ints
from moe_watch.backends.mlx.hooks import Call, hook
from moe_watch.backends.mlx.layers import MoeLayer
from moe_watch.routing.router.gates import Scores
from moe_watch.routing.router.masks import ExpertGroups, ExpertMask

SELECTION_BIASES = ("e_score_correction_bias", "expert_bias", "router_bias")
"""Names of the selection bias in a router or its block."""

GROUPED_ROUTERS = frozenset(
    {
        "bailing_hybrid", "bailing_moe", "bailing_moe_linear", "bailing_moe_v3", "deepseek_v3", "deepseek_v32", "dots1",
        "exaone_moe", "glm4_moe", "glm4_moe_lite", "mimo_v2_flash", "nemotron_h",
    }
)  # fmt: skip
"""Families whose routers select groups of experts first."""


def why_no_mask(layers: Sequence[MoeLayer]) -> str:
    """Return the reason why experts of a model with these MoE layers cannot be switched off; empty if they can."""
    if not layers:
        return "it is a dense model"
    return next(filter(None, map(_why_not, layers)), "")


def _why_not(layer: MoeLayer) -> str:
    if layer.gate is None:
        return f"the router of mlx-lm's {layer.family} cannot be read"
    if layer.linear is not None:
        return ""
    if not list(selection_biases(layer)):
        return f"the router of mlx-lm's {layer.family} has neither a linear module nor a selection bias"
    if layer.gate.scores is Scores.SOFTMAX:
        return f"the softmax of mlx-lm's {layer.family} is over a product that no module outputs"
    return ""


def selection_biases(layer: MoeLayer) -> Iterator[tuple[nn.Module, str]]:
    """Yield the selection biases of a layer: the module that holds the array [E], and its name there."""
    for owner in (layer.router, layer.block):
        for name in SELECTION_BIASES:
            bias = owner.get(name)
            if isinstance(bias, mx.array) and bias.size == layer.experts:
                yield owner, name


def groups_of(layers: Sequence[MoeLayer]) -> ExpertGroups | None:
    """Return the groups that the routers select from; None if they select from all experts."""
    found = next((_groups(layer) for layer in layers), None)
    if found is None or found.count <= 1 or found.used >= found.count:
        return None
    return found


def _groups(layer: MoeLayer) -> ExpertGroups | None:
    router, block = layer.router, layer.block
    match layer.family:
        case family if family in GROUPED_ROUTERS:
            count, used = router.n_group, router.topk_group
        case "deepseek_v2" if router.topk_method == "group_limited_greedy":
            count, used = router.n_group, router.topk_group
        case "afmoe":
            count, used = block.n_group, block.topk_group
        case "mistral4":
            count, used = block.args.n_group, block.args.topk_group
        case "kimi_linear" | "kimi_k3":
            count, used = block.args.num_expert_group, block.args.topk_group
        case _:
            return None
    return ExpertGroups(int(count or 1), int(used or 1))


class RouterMasks:
    """Masks on the routers of a model. Layers without a masked expert have no hook.

    Install them before the hooks of the tap, and remove them after.

    Args:
        layers: MoE layers of the model, in order.
    """

    def __init__(self, layers: Sequence[MoeLayer]) -> None:
        self._layers = layers
        self.mask = ExpertMask()
        """Mask of the passes that are built from now on."""
        self.off: dict[int, Ints] = {}
        """Masked experts, ascending, by the position of their MoE layer."""
        self._undo: list[Callable[[], None]] = []

    def apply(self, mask: ExpertMask) -> None:
        """Switch these experts off in the passes that are built from now on, and all others on."""
        while self._undo:
            self._undo.pop()()
        self.mask = mask
        self.off = {
            at: np.array(sorted(masked), np.int64)
            for at, layer in enumerate(self._layers)
            if (masked := mask.masked(layer.index))
        }
        for at, experts in self.off.items():
            self._mask_layer(self._layers[at], experts)

    def _mask_layer(self, layer: MoeLayer, experts: Ints) -> None:
        off = mx.array(np.isin(np.arange(layer.experts), experts))
        if layer.linear is not None:
            self._undo.append(hook(layer.linear, _without(off)))
        for owner, name in selection_biases(layer):
            self._undo.append(_replace_bias(owner, name, off))


def _without(off: Any) -> Callable[[Call], Call]:
    """Return a wrapper for a linear module that replaces the logits of masked experts by −∞.

    Args:
        off: [E], true for masked experts.
    """

    def wrap(call: Call) -> Call:
        def masked(module: Any, *args: Any, **options: Any) -> Any:
            return mx.where(off, -mx.inf, call(module, *args, **options))

        return masked

    return wrap


def _replace_bias(owner: nn.Module, name: str, off: Any) -> Callable[[], None]:
    """Replace the biases of masked experts by −∞; return the function that restores the array."""
    original = owner[name]
    owner[name] = mx.where(off.reshape(original.shape), -mx.inf, original)

    def undo() -> None:
        owner[name] = original

    return undo
