"""Gates of families that `tests/truth` has no model of, against the blocks themselves.

What a block multiplies its experts' outputs with shows when every expert's output is replaced by a known one: the
output of the j-th selected expert by the j-th unit vector. The block's output, less what it is when all experts give
zero, then starts with the weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_map_with_path
from mlx_lm.models import (
    Klear,
    bailing_hybrid,
    bailing_moe,
    bailing_moe_linear,
    bailing_moe_v3,
    deepseek,
    deepseek_v32,
    deepseek_v41,
    ernie4_5_moe,
    kimi_k3,
    kimi_linear,
    laguna,
    lfm2_moe,
    longcat_flash,
    mimo_v2_flash,
    minimax,
    minimax_m3_vl,
    phixtral,
    step3p5,
)
from mlx_lm.models.switch_layers import SwitchGLU, SwitchMLP

from moe_watch.backends.engine import RouterOutputs
from moe_watch.backends.mlx.tap import RouterTap
from moe_watch.routing.router import gates
from moe_watch.routing.router.gates import UNKNOWN_GATE
from moe_watch.routing.router.observe import observe

HIDDEN, EXPERTS, CHOSEN, TOKENS = 64, 8, 3, 30

ARGS: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "intermediate_size": 32,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "moe_shared_expert_intermediate_size": 32,
    "share_expert_dim": 32,
    "expert_ffn_hidden_size": 32,
    "model_dim": HIDDEN,
    "num_experts": EXPERTS,
    "num_local_experts": EXPERTS,
    "n_routed_experts": EXPERTS,
    "moe_num_experts": EXPERTS,
    "num_experts_per_tok": CHOSEN,
    "num_experts_per_token": CHOSEN,
    "moe_topk": CHOSEN,
    "moe_top_k": CHOSEN,
    "moe_k": CHOSEN,
    "n_shared_experts": 1,
    "num_shared_experts": 1,
    "moe_num_shared_experts": 1,
    "n_group": 4,
    "topk_group": 2,
    "num_expert_group": 4,
    "norm_topk_prob": True,
    "norm_expert_weight": True,
    "moe_renormalize": True,
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
    "score_function": "sigmoid",
    "moe_router_activation_func": "sigmoid",
    "moe_router_score_func": "sigmoid",
    "moe_gate_act": "sigmoid",
    "moe_router_logit_softcapping": 2.0,
    "routed_scaling_factor": 2.5,
    "moe_router_scaling_factor": 2.5,
    "moe_routed_scaling_factor": 2.5,
    "moe_router_enable_expert_bias": True,
    "moe_router_enable_routed_scaling": True,
    "moe_router_enable_shared_expert": True,
    "use_bias": False,
    "router_bias": False,
    "zero_expert_num": 0,
    "zero_expert_type": "identity",
    "gate_temp": 0.7,
    "swiglu_limit": 7.0,
    "swiglu_limits": [],
    "swiglu_limits_shared": [],
    "routed_expert_hidden_size": None,
    "activation_situ_beta": 1.0,
    "activation_situ_linear_beta": 1.0,
}
"""Union of the configuration keys of these families."""


def make(block: Callable[[Any], nn.Module], **changed: Any) -> Callable[[], nn.Module]:
    return lambda: block(SimpleNamespace(**(ARGS | changed)))


SIGMOID = "sigmoid_top_k_renormalised×2.5"

BLOCKS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "phixtral": (lambda: phixtral.MOE(SimpleNamespace(**ARGS), HIDDEN, 32), "top_k_softmax"),
    "deepseek": (make(deepseek.DeepseekMoE), "softmax_top_k"),
    "deepseek_v32": (make(deepseek_v32.DeepseekV32MoE), SIGMOID),
    "deepseek_v32, as they are": (make(deepseek_v32.DeepseekV32MoE, norm_topk_prob=False), "sigmoid_top_k×2.5"),
    "deepseek_v32, top 1": (make(deepseek_v32.DeepseekV32MoE, num_experts_per_tok=1), "sigmoid_top_k×2.5"),
    "mimo_v2_flash": (make(mimo_v2_flash.MoE, routed_scaling_factor=None), "sigmoid_top_k_renormalised"),
    "bailing_moe": (make(bailing_moe.BailingMoeSparseMoeBlock), SIGMOID),
    "bailing_moe, softmax": (
        make(bailing_moe.BailingMoeSparseMoeBlock, score_function="softmax"),
        "softmax_top_k_renormalised×2.5",
    ),
    "bailing_moe_linear": (make(bailing_moe_linear.SparseMoeBlock), SIGMOID),
    "bailing_hybrid": (make(bailing_hybrid.SparseMoeBlock), SIGMOID),
    "bailing_moe_v3": (make(bailing_moe_v3.BailingSparseMoE), SIGMOID),
    "kimi_linear": (make(kimi_linear.KimiSparseMoE), SIGMOID),
    "kimi_linear, softmax": (
        make(kimi_linear.KimiSparseMoE, moe_router_activation_func="softmax", moe_renormalize=False),
        "softmax_top_k×2.5",
    ),
    "kimi_k3": (make(kimi_k3.KimiK3SparseMoE), SIGMOID),
    "step3p5": (lambda: step3p5.Step3p5MoE(SimpleNamespace(**ARGS), 0), SIGMOID),
    "laguna": (make(laguna.MoE), SIGMOID),
    "laguna, sqrt-softplus": (
        make(laguna.MoE, moe_router_score_func="sqrtsoftplus"),
        "sqrt_softplus_top_k_renormalised×2.5",
    ),
    "deepseek_v41": (make(deepseek_v41.MoE, scoring_func="sqrtsoftplus"), "sqrt_softplus_top_k_renormalised×2.5"),
    "deepseek_v41, sigmoid": (make(deepseek_v41.MoE), SIGMOID),
    "longcat_flash": (make(longcat_flash.LongcatFlashMoE), "softmax_top_k_renormalised×2.5"),
    "ernie4_5_moe, sigmoid": (make(ernie4_5_moe.Ernie4_5_MoeMLP), "sigmoid_top_k_renormalised(sum≥1e-12)"),
    "lfm2_moe": (
        make(lfm2_moe.Lfm2MoeSparseMoeBlock, use_expert_bias=True),
        "sigmoid_top_k_renormalised(sum+1e-06)×2.5",
    ),
    "minimax": (make(minimax.MiniMaxSparseMoeBlock), "sigmoid_top_k_renormalised(sum+1e-20)"),
    "minimax_m3_vl": (
        make(minimax_m3_vl.SparseMoeBlock, swiglu_alpha=1.7, shared_intermediate_size=32),
        "sigmoid_top_k_renormalised(sum+1e-20)×2.5",
    ),
}


class OneLayer(nn.Module):
    """A model that is nothing but one MoE block."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.layers = [block]

    def __call__(self, x: mx.array) -> mx.array:
        return self.layers[0](x)


def build(block: Callable[[], nn.Module]) -> OneLayer:
    """Random weights, and selection biases that matter."""
    mx.random.seed(0)
    model = OneLayer(block())

    def fill(path: str, weight: mx.array) -> mx.array:
        return mx.random.uniform(0, 0.3, weight.shape) if "bias" in path else mx.random.normal(weight.shape) / 6

    model.update(tree_map_with_path(fill, model.parameters()))
    mx.eval(model.parameters())
    return model


def half(model: OneLayer) -> OneLayer:
    """In bfloat16, with quantized experts, like published models."""
    nn.quantize(model, group_size=32, bits=8)
    model.set_dtype(mx.bfloat16)
    return model


def tokens(dtype: Any = mx.float32) -> mx.array:
    return mx.random.normal((1, TOKENS, HIDDEN), key=mx.random.key(1)).astype(dtype)


def watch(model: OneLayer, x: mx.array) -> tuple[str, RouterOutputs]:
    tap = RouterTap(model)
    mx.eval(model(x))
    routing = tap.frame.read(TOKENS)
    tap.close()
    return tap.gate, routing


def applied_weights(model: OneLayer, x: mx.array) -> np.ndarray:
    """Return the weights [T, k] that a block without a tap applies."""
    container = next(module for module in model.modules() if isinstance(module, SwitchGLU | SwitchMLP))
    original = type(container)

    def run(unit: float) -> np.ndarray:
        def experts(_module: Any, given: mx.array, indices: mx.array) -> mx.array:
            vectors = unit * mx.eye(indices.shape[-1], HIDDEN, dtype=given.dtype)
            return mx.broadcast_to(vectors, (*indices.shape, HIDDEN))

        container.__class__ = type(original.__name__, (original,), {"__call__": experts})
        return np.array(model(x).astype(mx.float32))[0]

    try:
        return (run(1.0) - run(0.0))[:, :CHOSEN]
    finally:
        container.__class__ = original


@pytest.mark.parametrize("name", BLOCKS)
def test_gate_and_weights_are_those_of_the_block(name: str) -> None:
    block, expected_gate = BLOCKS[name]
    model, x = build(block), tokens()
    gate, routing = watch(model, x)
    assert gate == expected_gate
    [experts], [logits] = routing.experts, routing.logits
    weights = applied_weights(model, x)[:, : experts.shape[-1]]
    seen = observe(logits[:, None], experts[:, None], gate)
    everywhere, observed = np.zeros((2, TOKENS, EXPERTS))
    np.put_along_axis(everywhere, experts.astype(np.int64), weights, axis=-1)
    np.put_along_axis(observed, seen.experts[:, 0], seen.weights[:, 0] * 1e-4, axis=-1)
    np.testing.assert_allclose(observed, everywhere, rtol=0, atol=1e-4 * 2.5)
    if routing.weights:
        np.testing.assert_allclose(routing.weights[0], weights, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", BLOCKS)
def test_half_precision_is_seen_as_it_routes(name: str) -> None:
    """Logits that were recomputed or cast must still give the weights that are applied."""
    block, _ = BLOCKS[name]
    model, x = half(build(block)), tokens(mx.bfloat16)
    gate, routing = watch(model, x)
    [experts], [logits] = routing.experts, routing.logits
    known = gates.parse(gate)
    scored = gates.scores(known, logits)
    computed = gates.weights(known, logits, scored, experts.astype(np.int64))
    np.testing.assert_allclose(computed, applied_weights(model, x)[:, : experts.shape[-1]], rtol=0.02, atol=0.02)
    assert logits.dtype == np.float32


KEPT_FROM_ZERO = [name for name, (_, gate) in BLOCKS.items() if "(sum" in gate]
"""Families that add to the sum of the selected scores, or bound it, and do not return their weights."""


@pytest.mark.parametrize("logit", [-12.0, -30.0, -46.0])
@pytest.mark.parametrize("name", KEPT_FROM_ZERO)
def test_tiny_scores_are_divided_as_the_block_divides_them(name: str, logit: float) -> None:
    """Sigmoids around 6e-6, 1e-13 and 1e-20; the first component of every token shifts all logits."""
    model = build(BLOCKS[name][0])
    router = model.layers[0].gate
    router.weight[:, 0] = logit / 8
    x = mx.concatenate([mx.full((1, TOKENS, 1), 8.0), tokens()[..., 1:]], axis=-1)
    gate, routing = watch(model, x)
    [experts], [logits] = routing.experts, routing.logits
    known = gates.parse(gate)
    computed = gates.weights(known, logits, gates.scores(known, logits), experts.astype(np.int64))
    np.testing.assert_allclose(computed, applied_weights(model, x), rtol=2e-3, atol=1e-4)
    without = replace(known, smallest_sum=0.0, added_to_sum=0.0)
    unkept = gates.weights(without, logits, gates.scores(known, logits), experts.astype(np.int64))
    matters = {"1e-06": -12.0, "1e-12": -30.0, "1e-20": -46.0}[gate.partition(")")[0][-5:]]
    assert (np.abs(unkept - computed).max() > 0.05) == (logit <= matters)


def test_a_router_without_a_bias_selects_the_likeliest() -> None:
    model = build(BLOCKS["deepseek"][0])
    _, routing = watch(model, tokens())
    likeliest = np.argsort(-routing.logits[0])[:, :CHOSEN]
    np.testing.assert_array_equal(np.sort(routing.experts[0]), np.sort(likeliest))


def test_experts_that_do_nothing_are_seen_where_they_are_selected() -> None:
    """LongCat's container is given 0 in the place of experts that hand their input on."""
    model, x = build(make(longcat_flash.LongcatFlashMoE, zero_expert_num=4)), tokens()
    gate, routing = watch(model, x)
    [experts], [logits], [weights] = routing.experts, routing.logits, routing.weights
    assert logits.shape == (TOKENS, EXPERTS + 4)
    handed_on = experts >= EXPERTS
    assert 0 < handed_on.mean() < 1
    np.testing.assert_allclose(applied_weights(model, x), np.where(handed_on, 0, weights), rtol=0, atol=1e-4)
    assert gate == "softmax_top_k_renormalised×2.5"


def test_klear_mixes_by_what_no_gate_describes() -> None:
    """Its sum over experts is multiplied by a coefficient of each token, so that only the experts are shown."""
    gate, routing = watch(build(make(Klear.KlearSparseMoeBlock)), tokens())
    assert (gate, routing.logits, routing.weights) == (UNKNOWN_GATE, [None], [])
    assert routing.experts[0].shape == (TOKENS, CHOSEN)
