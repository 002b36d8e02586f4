"""Finder of the MoE layers of an mlx-lm model, with their experts, routers and gates."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import mlx.nn as nn
from mlx_lm.models.switch_layers import SwitchGLU, SwitchMLP

from moe_watch.backends.mlx.gates import SCALES_LATER, gate_of
from moe_watch.routing.router.gates import Gate

ROUTERS = ("router", "gate")
"""Names of the router module in model families."""

OF_EXPERTS = re.compile("Router|Expert|Switch|SparseMoe|MoEGate|MoEBlock")
"""Part of the class names of modules that only MoE layers have."""

WITHOUT_CONTAINER = "dbrx"
"""Family whose experts are a list of modules, each called separately."""


@dataclass(frozen=True, slots=True, eq=False)
class MoeLayer:
    """One MoE layer of a model."""

    index: int
    """Model layer index."""
    family: str
    """The mlx-lm file with the class of its block; several architectures share one file."""
    block: Any
    """Module that owns the router."""
    container: Any
    """Module that holds the experts and is called with their indices; None in families without one."""
    router: Any
    """Module that scores the experts, or None."""
    linear: Any
    """Linear module in the router that computes the logits; None if the router has only a weight."""
    experts: int
    """Number of experts that the router scores."""
    experts_per_token: int
    """k of families without a container; 0 if the captured indices show it."""
    gate: Gate | None
    """Gate of the router; None if it is not known."""

    @property
    def returns_applied(self) -> bool:
        """Weights that the router returns are the applied weights."""
        return self.family not in SCALES_LATER


def moe_layers(model: nn.Module) -> Iterator[MoeLayer]:
    """Yield all MoE layers, in no particular order."""
    modules = dict(model.named_modules())
    for path, module in modules.items():
        if isinstance(module, SwitchGLU | SwitchMLP):
            yield _layer(path, modules[_owner(path, modules)], module, held_experts(module))
        elif family_of(module) == WITHOUT_CONTAINER and "router" in module:
            yield _layer(path, module, None, module.num_experts, module.num_experts_per_tok)


def held_experts(container: nn.Module) -> int:
    """Return the number of experts in a container."""
    return int(container["fc1" if isinstance(container, SwitchMLP) else "gate_proj"].num_experts)


def unseen_experts(model: nn.Module) -> str | None:
    """Return the path of the first module that is for experts alone, in a model without a layer of `moe_layers`."""
    found = (path for path, module in model.named_modules() if OF_EXPERTS.search(type(module).__name__))
    return next(found, None)


def _layer(path: str, owner: nn.Module, container: Any, held: int, experts_per_token: int = 0) -> MoeLayer:
    family = family_of(owner)
    router = next((owner[name] for name in ROUTERS if isinstance(owner.get(name), nn.Module)), None)
    # LongCat's router also scores zero-computation experts, which are not in the container.
    experts = router.n_routed_experts if router is not None and family == "longcat_flash" else held
    linear = None if router is None else _linear(router, experts)
    return MoeLayer(
        index=_layer_index(path),
        family=family,
        block=owner,
        container=container,
        router=router,
        linear=linear,
        experts=experts,
        experts_per_token=experts_per_token,
        gate=None if router is None else _gate(family, owner, router),
    )


def _gate(family: str, owner: nn.Module, router: nn.Module) -> Gate | None:
    try:
        return gate_of(family, owner, router)
    except AttributeError:  # another version of mlx-lm, whose code differs from the code that was read
        return None


def _owner(path: str, modules: dict[str, nn.Module]) -> str:
    """Return the path of the nearest module around an expert container that owns a router; else the given path."""
    above = path
    while above:
        above = above.rpartition(".")[0]
        if any(isinstance(modules[above].get(name), nn.Module) for name in ROUTERS):
            return above
    return path


def _linear(router: nn.Module, experts: int) -> nn.Module | None:
    """Return the linear module that scores the experts: the router itself, or a module inside it."""
    linear = (nn.Linear, nn.QuantizedLinear, nn.QQLinear)
    inside = (module for _, module in router.named_modules() if isinstance(module, linear))
    return next((module for module in inside if module.weight.shape[0] == experts), None)


def _layer_index(path: str) -> int:
    numbers = re.findall(r"\.(\d+)(?=\.|$)", path)
    return int(numbers[0]) if numbers else 0


def family_of(block: nn.Module) -> str:
    """Return the mlx-lm file of a module's class."""
    return type(block).__module__.rpartition(".")[2]
