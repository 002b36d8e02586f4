"""Watching the routers of an mlx-lm model while it runs, without slowing it.

MLX is lazy: a forward pass only builds a graph, and the next one is launched before the results of this one are
read. So the hooks evaluate nothing. They keep the arrays that the model itself routes with, and tie them to the
output of the same pass, so that they are computed with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.switch_layers import SwitchGLU, SwitchMLP

from backends.engine import Routing
from routing.errors import UserError

Call = Callable[..., Any]

ROUTERS = ("router", "gate")
"""What model families call the module that scores experts."""

UNKNOWN_GATE = "unknown"

REWRITES_SELECTION = frozenset({"longcat_flash", "longcat_flash_ngram"})
"""Families whose expert container does not see what the router selected."""


@dataclass(slots=True, eq=False)
class Frame:
    """What one forward pass routed with, per MoE layer; lazy arrays."""

    experts: list[Any]
    """[..., T, k]"""
    logits: list[Any]
    """[..., T, E], float32"""

    def arrays(self) -> list[Any]:
        return [array for array in (*self.experts, *self.logits) if array is not None]

    def read(self) -> Routing:
        """As NumPy, waiting for the pass if need be.

        Only `np.asarray` here: any new MLX operation would queue behind the pass that is already under way.
        """
        experts = [_rows(array) for array in self.experts]
        logits = [_rows(array) for array in self.logits]
        return Routing(tokens=next(len(rows) for rows in experts if rows is not None), experts=experts, logits=logits)


def _rows(array: Any) -> Any:
    return None if array is None else np.array(array).reshape(-1, array.shape[-1])


@dataclass(frozen=True, slots=True, eq=False)
class MoeLayer:
    """One MoE layer of a model."""

    index: int
    """Model layer index."""
    container: Any
    """The module that holds the experts; it is called with their indices."""
    router: Any
    """The linear module that gives the logits, or None."""
    experts: int
    gate: str
    """How logits become weights, or `UNKNOWN_GATE`."""


class RouterTap:
    """Hooks into all MoE layers of a model; `close` takes them out again.

    Quantise before this: quantising replaces the hooked modules.

    Raises:
        UserError: the model has no MoE layer, or hides its selection.
    """

    def __init__(self, model: nn.Module) -> None:
        self.layers = sorted(_moe_layers(model), key=lambda layer: layer.index)
        if not self.layers:
            raise UserError("no MoE layer was found in this model", advice="give a Mixture-of-Experts model")
        self.frame = self._new_frame()
        """Of the forward pass that was built last."""
        self._undo: list[Callable[[], None]] = []
        for position, layer in enumerate(self.layers):
            self._hook(layer.container, _keep_indices(self, position))
            if layer.router is not None:
                self._hook(layer.router, _keep_logits(self, position))
        self._hook(model, _open_frame(self))

    @property
    def gate(self) -> str:
        """The gate of all layers, `UNKNOWN_GATE` if they differ or show no logits."""
        gates = {layer.gate if layer.router is not None else UNKNOWN_GATE for layer in self.layers}
        return gates.pop() if len(gates) == 1 else UNKNOWN_GATE

    def _new_frame(self) -> Frame:
        return Frame([None] * len(self.layers), [None] * len(self.layers))

    def open_frame(self) -> Frame:
        """Begin a forward pass."""
        self.frame = self._new_frame()
        return self.frame

    def _hook(self, module: nn.Module, wrap: Callable[[Call], Call]) -> None:
        """Give one module a subclass of its own: Python looks `__call__` up on the type, never on the instance."""
        original = type(module)
        module.__class__ = type(original.__name__, (original,), {"__call__": wrap(original.__call__)})

        def undo() -> None:
            module.__class__ = original

        self._undo.append(undo)

    def close(self) -> None:
        """Leave the model as it was."""
        while self._undo:
            self._undo.pop()()


def _open_frame(tap: RouterTap) -> Callable[[Call], Call]:
    """For the whole model: one frame per forward pass, computed together with its output."""

    def wrap(call: Call) -> Call:
        def hooked(module: Any, *args: Any, **options: Any) -> Any:
            frame = tap.open_frame()
            return mx.depends(call(module, *args, **options), frame.arrays())

        return hooked

    return wrap


def _keep_indices(tap: RouterTap, position: int) -> Callable[[Call], Call]:
    """For an expert container: the experts it gathers."""

    def wrap(call: Call) -> Call:
        def hooked(module: Any, x: Any, indices: Any, *args: Any, **options: Any) -> Any:
            tap.frame.experts[position] = indices
            return call(module, x, indices, *args, **options)

        return hooked

    return wrap


def _keep_logits(tap: RouterTap, position: int) -> Callable[[Call], Call]:
    """For a router: its output. Cast here, in the graph of the pass, because NumPy knows no bfloat16."""

    def wrap(call: Call) -> Call:
        def hooked(module: Any, *args: Any, **options: Any) -> Any:
            logits = call(module, *args, **options)
            tap.frame.logits[position] = logits.astype(mx.float32)
            return logits

        return hooked

    return wrap


# -- finding the layers


def _moe_layers(model: nn.Module) -> Iterator[MoeLayer]:
    modules = dict(model.named_modules())
    for path, module in modules.items():
        if not isinstance(module, SwitchGLU | SwitchMLP):
            continue
        owner = _owner(path, modules)
        family = _family(modules[owner])
        if family in REWRITES_SELECTION:
            raise UserError(f"the {family} family hides which experts it selects from MLX", advice="give another model")
        experts = module["fc1" if isinstance(module, SwitchMLP) else "gate_proj"].num_experts
        yield MoeLayer(
            index=_layer_index(path),
            container=module,
            router=_router(modules[owner], experts),
            experts=experts,
            gate=_gate(family, modules[owner]),
        )


def _owner(path: str, modules: dict[str, nn.Module]) -> str:
    """The path of the nearest module around an expert container that also owns a router; itself if none does."""
    above = path
    while above:
        above = above.rpartition(".")[0]
        if any(isinstance(modules[above].get(name), nn.Module) for name in ROUTERS):
            return above
    return path


def _router(owner: nn.Module, experts: int) -> nn.Module | None:
    """The linear module that scores the experts: the router itself, or inside it."""
    router = next((owner[name] for name in ROUTERS if isinstance(owner.get(name), nn.Module)), None)
    if router is None:
        return None
    linear = (nn.Linear, nn.QuantizedLinear)
    inside = (module for _, module in router.named_modules() if isinstance(module, linear))
    return next((module for module in inside if module.weight.shape[0] == experts), None)


def _layer_index(path: str) -> int:
    numbers = re.findall(r"\.(\d+)(?=\.|$)", path)
    return int(numbers[0]) if numbers else 0


def _family(block: nn.Module) -> str:
    """The mlx-lm file that a block's class comes from; several families share one."""
    return type(block).__module__.rpartition(".")[2]


def _gate(family: str, block: nn.Module) -> str:
    """How this block turns logits into weights. Named only for blocks whose code was read and checked."""
    match family:
        case "mixtral" | "phixtral":
            return "top_k_softmax"
        case "qwen2_moe":
            return "softmax_top_k"
        case "qwen3_moe" | "olmoe":
            return "softmax_top_k_renormalised" if block.norm_topk_prob else "softmax_top_k"
        case _:
            return UNKNOWN_GATE
