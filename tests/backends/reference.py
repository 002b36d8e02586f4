"""Reference routing of a model, from a copy without a tap: no hook, no cache, the whole text in one pass."""

from __future__ import annotations

import pathlib
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.base import create_attention_mask
from mlx_lm.utils import load_model


@dataclass(frozen=True)
class Reference:
    logits: np.ndarray
    """[T, L, E] of the routers"""
    sets: np.ndarray
    """[T, L, k], ascending"""
    output: np.ndarray
    """[T, V] logits of the next token"""
    inputs: list[Any]
    """Per MoE layer [1, T, D]: the input of its block."""
    blocks: list[Any]
    """Per MoE layer: the block."""


def load_unwatched(folder: pathlib.Path) -> Any:
    return load_model(folder)[0]


def reference(folder: pathlib.Path, ids: list[int], experts_per_token: int) -> Reference:
    model = load_unwatched(folder)
    hidden = model.model.embed_tokens(mx.array([ids]))
    mask = create_attention_mask(hidden)
    logits, inputs, blocks = [], [], []
    for layer in model.layers:
        block = getattr(layer, "block_sparse_moe", None) or layer.mlp
        attended = hidden + layer.self_attn(layer.input_layernorm(hidden), mask)
        given = layer.post_attention_layernorm(attended)
        if "gate" in block:
            inputs.append(given)
            blocks.append(block)
            logits.append(np.array(block.gate(given).astype(mx.float32))[0])
        hidden = attended + block(given)
    routers = np.stack(logits, axis=1)
    sets = np.sort(np.argsort(-routers, axis=-1, kind="stable")[..., :experts_per_token], axis=-1)
    return Reference(routers, sets, np.array(model.lm_head(model.model.norm(hidden)))[0], inputs, blocks)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    exact = logits.astype(np.float64)
    shifted = exact - exact.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
