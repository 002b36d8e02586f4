"""Roles of tensors in a Hugging Face checkpoint: experts one by one or stacked, routers, and everything else.

Families differ in names, not in kind: an expert's tensors are below `experts`, `switch_mlp` or `switch_glu`, its router
is beside them. A tensor of an MoE block that is none of these is refused: a copy of it could be wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from moe_watch.backends.model_files.safetensors import TensorInfo
from moe_watch.backends.model_files.sizes import EXPERT_CONTAINERS, LAYER_LISTS
from moe_watch.backends.pruning.experts_of_model import unknown_tensor, wrong_axis
from moe_watch.routing.errors import UserError

Role = Literal["numbered", "stacked", "copied"]

CONTAINER = "|".join(sorted(EXPERT_CONTAINERS))
STACKED_BLOCK = re.compile(rf"(?P<block>.*?)\.(?:{CONTAINER})\.(?P<inside>.+)")
LAYER = re.compile(r"[0-9]{1,9}")
NUMBERED = re.compile(r"(?P<expert>[0-9]{1,9})\.(?P<rest>.+)")
GRANITE = re.compile(r"(?P<block>.*\.block_sparse_moe)\.(?:input|output)_linear\.\w+")
"""Stacked experts of Granite, directly in the block."""
JOINED = re.compile(r"mlp\.(?:w1|v1|w2)")
"""Experts of DBRX one below the other in one matrix."""
ROUTER = re.compile(r"(?:gate|router)(?:\.(?:gate|wg|layer|proj))?\.(?:weight|bias|scales|biases)")
"""Router as `transformers` and mlx-lm name it, also quantized."""
ROUTER_WEIGHT = re.compile(r"(?:gate|router)(?:\.(?:gate|wg|layer|proj))?\.weight")
PER_EXPERT = re.compile(r"(?:(?:gate|router|moe_statics)\.)?(?:e_score_correction_bias|expert_bias|per_expert_scale)")
SHARED = re.compile(r"(?:shared_experts?|shared_mlp|shared_expert_gate)\..+|router\.scale")
"""Tensors of MoE blocks without an axis of experts: shared experts, and Gemma 4's scale of the router's input."""
SUSPICIOUS = re.compile(r"(?:.*\.)?(?:gate|\w*experts?\w*|\w*router\w*|moe\w*|switch_\w+)(?:\..*)?")
ATTENTION = re.compile(r"(?:\w*attn\w*|\w*attention\w*)(?:\..*)?")
PREDICTS_AHEAD = re.compile(r"(?:.*\.)?(?:mtp|nextn)\w*\..*")


@dataclass(frozen=True, slots=True)
class ExpertTensor:
    """Tensor with its role; `layer` and `expert` where the role has them."""

    tensor: TensorInfo
    role: Role
    block: str = ""
    """Path of the MoE block."""
    layer: int = -1
    expert: int = -1
    """Number of a numbered expert."""
    prefix: str = ""
    """Name before the number."""
    rest: str = ""
    """Name after the number."""
    axis: int = 0
    """Axis of the experts of a stacked tensor."""


def roles(name: str, tensors: Sequence[TensorInfo], experts: int) -> list[ExpertTensor]:
    """Return the roles of all tensors.

    Args:
        name: name of the model.
        tensors: tensors of all files.
        experts: number of routed experts.

    Raises:
        UserError: a layer has another number of experts, several routers or an unknown tensor.
    """
    found = {tensor.name: _expert(name, tensor, experts) for tensor in tensors}
    blocks = {each.block for each in found.values() if each is not None}
    result = [
        each if (each := found[tensor.name]) is not None else _beside(name, tensor, blocks, experts)
        for tensor in tensors
    ]
    _check_blocks(name, result, experts)
    return result


def _expert(name: str, tensor: TensorInfo, experts: int) -> ExpertTensor | None:
    """Return the role of a tensor of routed experts; None if it is another one."""
    if granite := GRANITE.fullmatch(tensor.name):
        return _stacked(name, tensor, granite["block"], experts)
    found = STACKED_BLOCK.fullmatch(tensor.name)
    if found is None or _layer(found["block"]) < 0:
        return None
    block, inside = found["block"], found["inside"]
    while (nested := STACKED_BLOCK.fullmatch(f"x.{inside}")) and nested["block"] == "x":  # `experts.switch_glu`
        inside = nested["inside"]
    if numbered := NUMBERED.fullmatch(inside):
        prefix = tensor.name[: len(tensor.name) - len(inside)]
        number = int(numbered["expert"])
        if number >= experts:
            raise wrong_axis(name, tensor.name, tensor.shape, experts)
        return ExpertTensor(tensor, "numbered", block, _layer(block), number, prefix, numbered["rest"])
    if JOINED.fullmatch(inside):
        if not tensor.shape or tensor.shape[0] % experts:
            raise wrong_axis(name, tensor.name, tensor.shape, experts)
        return ExpertTensor(tensor, "stacked", block, _layer(block))
    return _stacked(name, tensor, block, experts)


def _stacked(name: str, tensor: TensorInfo, block: str, experts: int) -> ExpertTensor:
    """Return the role of a tensor with one axis of experts, before which all axes have one element."""
    axis = next((place for place, length in enumerate(tensor.shape) if length != 1), -1)
    if axis < 0 or tensor.shape[axis] != experts:
        raise wrong_axis(name, tensor.name, tensor.shape, experts)
    return ExpertTensor(tensor, "stacked", block, _layer(block), axis=axis)


def _beside(name: str, tensor: TensorInfo, blocks: set[str], experts: int) -> ExpertTensor:
    """Return the role of a tensor that is not below a container of experts."""
    layer, inside_layer = _split_layer(tensor.name)
    if layer < 0:
        return ExpertTensor(tensor, "copied")
    block = next((block for block in blocks if tensor.name.startswith(f"{block}.")), None)
    if block is None:  # of a dense layer, or of another part of an MoE layer
        return ExpertTensor(tensor, "copied")
    inside = tensor.name[len(block) + 1 :]
    if ROUTER.fullmatch(inside) or PER_EXPERT.fullmatch(inside):
        return _stacked(name, tensor, block, experts)
    is_layer = inside == inside_layer  # Gemma 4: experts and router are directly in the layer, beside everything else
    harmless = is_layer and (ATTENTION.fullmatch(inside) or not SUSPICIOUS.fullmatch(inside))
    if SHARED.fullmatch(inside) or harmless:
        return ExpertTensor(tensor, "copied")
    raise unknown_tensor(name, tensor.name)


def _check_blocks(name: str, found: Iterable[ExpertTensor], experts: int) -> None:
    """Check that every MoE block has one router, and all experts."""
    routers: dict[str, int] = {}
    numbers: dict[str, dict[str, set[int]]] = {}
    for each in found:
        if each.role == "copied":
            continue
        routers.setdefault(each.block, 0)
        if ROUTER_WEIGHT.fullmatch(each.tensor.name[len(each.block) + 1 :]):
            routers[each.block] += 1
        if each.role == "numbered":
            numbers.setdefault(each.block, {}).setdefault(each.rest, set()).add(each.expert)
    for block, count in routers.items():
        if count != 1:
            raise UserError(
                f"{block} of {name} has {count or 'no'} router{'s' if count > 1 else ''} beside its experts",
                advice="blocks with one router can be pruned",
            )
    for block, by_rest in numbers.items():
        lacking = next((rest for rest, present in by_rest.items() if len(present) != experts), None)
        if lacking is not None:
            raise UserError(
                f"{block} of {name} has {lacking} for {len(by_rest[lacking])} of {experts} experts",
                advice="download or convert the model again",
            )


def predicts_ahead(block: str, layers: int | None) -> bool:
    """Return whether a block is of a layer that predicts further tokens (MTP)."""
    return PREDICTS_AHEAD.fullmatch(f"{block}.") is not None or (layers is not None and _layer(block) >= layers)


def _layer(path: str) -> int:
    return _split_layer(f"{path}.")[0]


def _split_layer(name: str) -> tuple[int, str]:
    """Return the model layer index in a tensor's name and the name after it; −1 if it has none."""
    parts = name.split(".")
    for place, (component, index) in enumerate(pairwise(parts)):
        if component in LAYER_LISTS and LAYER.fullmatch(index):
            return int(index), ".".join(parts[place + 2 :])
    return -1, name
