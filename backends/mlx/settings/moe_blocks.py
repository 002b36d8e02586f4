"""Corrected `__call__` methods for MoE blocks whose mlx-lm code routes by other rules than their models.

Each function is the `__call__` of one family's block (mlx-lm 0.32.2), with one step corrected, which its docstring
describes. `replace_call` sets it on a loaded block; mlx-lm itself is unchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn

Call = Callable[..., Any]


def replace_call(module: nn.Module, call: Call) -> None:
    """Replace the `__call__` of one module, through a subclass with the same name."""
    original = type(module)
    module.__class__ = type(original.__name__, (original,), {"__call__": call, "__module__": original.__module__})


def ernie4_5_moe(block: Any, x: Any) -> Any:
    """Select by scores plus the checkpoint's bias, and weight by the scores alone."""
    scores = block.gate_act(block.gate(x).astype(mx.float32))
    experts = _top(scores + block.e_score_correction_bias, block.k)
    weights = mx.take_along_axis(scores, experts, axis=-1)
    weights = weights / mx.maximum(weights.sum(axis=-1, keepdims=True), 1e-12)
    y = _weighted(block, x, experts, weights)
    return y if block.shared_experts is None else y + block.shared_experts(x)


def qwen2_moe(block: Any, x: Any) -> Any:
    """Divide the selected probabilities by their sum (`norm_topk_prob`)."""
    y = _weighted(block, x, *_renormalised(block.gate(x), block.top_k))
    return y + mx.sigmoid(block.shared_expert_gate(x)) * block.shared_expert(x)


def hunyuan(block: Any, x: Any) -> Any:
    """Divide the selected probabilities by their sum, as Hunyuan does."""
    y = _weighted(block, x, *_renormalised(block.gate(x), block.top_k))
    return y + block.shared_mlp(x) if block.use_shared_mlp else y


def jamba(block: Any, x: Any) -> Any:
    """Weight by the selected probabilities without renormalization, as Jamba does."""
    probabilities = mx.softmax(block.router(x), axis=-1, precise=True)
    experts = _top(probabilities, block.num_experts_per_tok)
    return _weighted(block, x, experts, mx.take_along_axis(probabilities, experts, axis=-1))


def _top(scores: Any, count: int) -> Any:
    return mx.stop_gradient(mx.argpartition(-scores, kth=count - 1, axis=-1)[..., :count])


def _renormalised(logits: Any, count: int) -> tuple[Any, Any]:
    probabilities = mx.softmax(logits, axis=-1, precise=True)
    experts = _top(probabilities, count)
    weights = mx.take_along_axis(probabilities, experts, axis=-1)
    return experts, weights / weights.sum(axis=-1, keepdims=True)


def _weighted(block: Any, x: Any, experts: Any, weights: Any) -> Any:
    return (block.switch_mlp(x, experts) * weights[..., None]).sum(axis=-2).astype(x.dtype)
