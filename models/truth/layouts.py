"""Tensors and config.json entries under the names of published models, where `transformers` 5 has other names."""

from __future__ import annotations

import pathlib
import re
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tiny_model import Entries, TinyModel

WRAPPED = {"llama4_text": "llama4", "minimax_m3_vl_text": "minimax_m3_vl"}
"""Text models that are published, and read by MLX, only as part of a larger model."""

EXPERT = re.compile(r"\.experts\.(\d+)\.")
"""Expert number in the name of a tensor."""


def as_published(path: pathlib.Path, family: str, config: Any) -> None:
    """Rename and split the tensors of a file."""
    if family == "gpt_oss":
        split_experts(path)
    if family == "qwen3_5_moe_text":
        fuse_experts(path)
    if family == "kimi_linear":
        rename(path, r"block_sparse_moe\.(gate_proj|up_proj|down_proj)", r"mlp.\1")  # of its dense layers
    if family == "bailing_hybrid":
        rename(path, r"layers\.0\.attention\.dense", "layers.0.attention.o_proj")  # of its linear attention
    if family == "longcat_flash":
        drop_zero_experts(path, config.n_routed_experts)
    if family in WRAPPED:
        wrap_text_model(path, family)


def config_as_published(config: Entries, tiny: TinyModel) -> Entries:
    """Return the config.json that a published model of the family has."""
    config = config | rope_entries(config) | tiny.written
    return {"model_type": WRAPPED[tiny.family], "text_config": config} if tiny.family in WRAPPED else config


def split_experts(path: pathlib.Path) -> None:
    """Write gpt-oss's experts in MLX's layout: MLX reads the published 4-bit layout, not that of `transformers`."""
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(path).items():
        if name.endswith("gate_up_proj_bias"):
            pieces = {"gate_proj.bias": tensor[:, ::2], "up_proj.bias": tensor[:, 1::2]}
        elif name.endswith("gate_up_proj"):
            rows = tensor.transpose(1, 2)
            pieces = {"gate_proj.weight": rows[:, ::2], "up_proj.weight": rows[:, 1::2]}
        elif name.endswith("experts.down_proj_bias"):
            pieces = {"down_proj.bias": tensor}
        elif name.endswith("experts.down_proj"):
            pieces = {"down_proj.weight": tensor.transpose(1, 2)}
        else:
            pieces = {name.rpartition(".")[2]: tensor}
        prefix = name.rpartition(".")[0]
        tensors |= {f"{prefix}.{last}": piece.contiguous() for last, piece in pieces.items()}
    save_file(tensors, path, metadata={"format": "pt"})


def fuse_experts(path: pathlib.Path) -> None:
    """Write all experts of a Qwen3.5 layer as one tensor, gate and up together."""
    tensors = load_file(path)
    blocks = {name.split(".experts.")[0] for name in tensors if EXPERT.search(name)}
    for block in blocks:
        parts = {part: stack_experts(tensors, block, part) for part in ("gate_proj", "up_proj", "down_proj")}
        tensors[f"{block}.experts.gate_up_proj"] = torch.cat((parts["gate_proj"], parts["up_proj"]), dim=1)
        tensors[f"{block}.experts.down_proj"] = parts["down_proj"]
    save_file(tensors, path, metadata={"format": "pt"})


def stack_experts(tensors: dict[str, torch.Tensor], block: str, part: str) -> torch.Tensor:
    """Take one matrix of every expert out of `tensors`: [E, rows, columns]."""
    count = sum(name.startswith(f"{block}.experts.") and name.endswith(f"{part}.weight") for name in tensors)
    return torch.stack([tensors.pop(f"{block}.experts.{expert}.{part}.weight") for expert in range(count)])


def rename(path: pathlib.Path, pattern: str, replacement: str) -> None:
    """Rename tensors."""
    tensors = {re.sub(pattern, replacement, name): tensor for name, tensor in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})


def drop_zero_experts(path: pathlib.Path, experts: int) -> None:
    """Remove the matrices of LongCat's identity experts, which `transformers` writes and never uses."""

    def is_used(name: str) -> bool:
        found = EXPERT.search(name)
        return found is None or int(found[1]) < experts

    used = {name: tensor for name, tensor in load_file(path).items() if is_used(name)}
    save_file(used, path, metadata={"format": "pt"})


def wrap_text_model(path: pathlib.Path, family: str) -> None:
    """Name the tensors of a text model as in the published models, which also have an image model."""
    tensors = load_file(path)
    if family == "minimax_m3_vl_text":
        tensors = {new: part for name, tensor in tensors.items() for new, part in minimax_parts(name, tensor)}
    tensors = {f"language_model.{name}": tensor.contiguous() for name, tensor in tensors.items()}
    save_file(tensors, path, metadata={"format": "pt"})


def minimax_parts(name: str, tensor: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    """Return MiniMax-M3's tensors as published: another name for MoE blocks, separate experts, gate and up apart."""
    prefix, _, last = name.rpartition("mlp.")
    if name.endswith("gate_up_proj.weight"):
        parts = zip(("gate_proj", "up_proj"), tensor.chunk(2, dim=-2), strict=True)
        block = "block_sparse_moe.shared_experts" if "shared" in last else "mlp"
        return [(f"{prefix}{block}.{part}.weight", rows) for part, rows in parts]
    if "shared_experts" in last or last.startswith("gate."):
        moved = last.replace("gate.e_score", "e_score")
        return [(f"{prefix}block_sparse_moe.{moved}", tensor)]
    if not last.startswith("experts."):
        return [(name, tensor)]
    named = {"w2": tensor} if "down" in last else dict(zip(("w1", "w3"), tensor.chunk(2, dim=-2), strict=True))
    return [
        (f"{prefix}block_sparse_moe.experts.{expert}.{part}.weight", rows[expert])
        for part, rows in named.items()
        for expert in range(len(rows))
    ]


def rope_entries(config: Entries) -> Entries:
    """Return the entries that transformers 5 nests in `rope_parameters`, under the names of published models."""
    rope = dict(config.get("rope_parameters") or {})
    if "rope_theta" not in rope:
        return {}
    theta = rope.pop("rope_theta")
    scaling = {"rope_scaling": rope | {"type": rope["rope_type"]}} if rope.get("rope_type") != "default" else {}
    return {"rope_theta": theta} | scaling
