"""Finding the MoE layers of an mlx-lm model: the experts, the router, and what is known of it."""

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
"""What model families call the module that scores experts."""

WITHOUT_CONTAINER = "dbrx"
"""Its experts are a list of modules, each called by itself."""


@dataclass(frozen=True, slots=True, eq=False)
class MoeLayer:
    """One MoE layer of a model."""

    index: int
    """Model layer index."""
    family: str
    """The mlx-lm file that its class comes from; several architectures share one."""
    container: Any
    """The module that holds the experts and is called with their indices; None in families that have none."""
    router: Any
    """The module that scores the experts, or None."""
    linear: Any
    """The linear module in it that gives the logits; None if it has only a weight."""
    experts: int
    """As many as the router scores."""
    experts_per_token: int
    """0 where the indices will show it."""
    gate: Gate | None
    """How logits become weights; None if that is not known."""

    @property
    def returns_applied(self) -> bool:
        """If the router returns weights, they are those that are applied."""
        return self.family not in SCALES_LATER


def moe_layers(model: nn.Module) -> Iterator[MoeLayer]:
    """All MoE layers, in no particular order."""
    modules = dict(model.named_modules())
    for path, module in modules.items():
        if isinstance(module, SwitchGLU | SwitchMLP):
            experts = module["fc1" if isinstance(module, SwitchMLP) else "gate_proj"].num_experts
            yield _layer(path, modules[_owner(path, modules)], module, experts)
        elif family_of(module) == WITHOUT_CONTAINER and "router" in module:
            yield _layer(path, module, None, module.num_experts, module.num_experts_per_tok)


def _layer(path: str, owner: nn.Module, container: Any, held: int, experts_per_token: int = 0) -> MoeLayer:
    family = family_of(owner)
    router = next((owner[name] for name in ROUTERS if isinstance(owner.get(name), nn.Module)), None)
    # LongCat's router also scores experts that do nothing, and no container holds.
    experts = router.n_routed_experts if router is not None and family == "longcat_flash" else held
    linear = None if router is None else _linear(router, experts)
    return MoeLayer(
        index=_layer_index(path),
        family=family,
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
    except AttributeError:  # its code is not that which was read: another version of mlx-lm
        return None


def _owner(path: str, modules: dict[str, nn.Module]) -> str:
    """The path of the nearest module around an expert container that also owns a router; itself if none does."""
    above = path
    while above:
        above = above.rpartition(".")[0]
        if any(isinstance(modules[above].get(name), nn.Module) for name in ROUTERS):
            return above
    return path


def _linear(router: nn.Module, experts: int) -> nn.Module | None:
    """The linear module that scores the experts: the router itself, or inside it."""
    linear = (nn.Linear, nn.QuantizedLinear, nn.QQLinear)
    inside = (module for _, module in router.named_modules() if isinstance(module, linear))
    return next((module for module in inside if module.weight.shape[0] == experts), None)


def _layer_index(path: str) -> int:
    numbers = re.findall(r"\.(\d+)(?=\.|$)", path)
    return int(numbers[0]) if numbers else 0


def family_of(block: nn.Module) -> str:
    """Return the mlx-lm file that a module's class comes from."""
    return type(block).__module__.rpartition(".")[2]
