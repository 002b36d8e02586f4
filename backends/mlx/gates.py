"""Gates of mlx-lm's model families (read in mlx-lm 0.32.2).

A family is the mlx-lm file with the class of a MoE block; several architectures share one file. Only families whose
code was read have a gate; docs/families.md lists them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mlx.core as mx

from moe_watch.routing.router.gates import Gate, Scores, Weighting

TOP_K_SOFTMAX = Gate(Scores.SOFTMAX, Weighting.SOFTMAX_OF_SELECTED)

SCALES_LATER = frozenset({"laguna"})
"""Families whose block multiplies the weights that the router returns by a further factor."""

SCORES = {"softmax": Scores.SOFTMAX, "sigmoid": Scores.SIGMOID, "sqrtsoftplus": Scores.SQRT_SOFTPLUS}
"""Scores by their name in a config.json."""


def gate_of(family: str, block: Any, router: Any) -> Gate | None:
    """Return the gate of a block; None for a family whose code was not read, or that no gate describes.

    Args:
        family: the mlx-lm file of the block's class.
        block: the module that owns the router.
        router: the module that scores the experts.
    """
    match family:
        case "mixtral" | "phixtral" | "gpt_oss" | "granitemoe" | "granitemoehybrid":
            return TOP_K_SOFTMAX
        case "gemma4_text":
            return Gate(Scores.SOFTMAX, Weighting.SOFTMAX_OF_SELECTED, scale=None)
        case "phimoe":
            return Gate(Scores.SOFTMAX, Weighting.SPARSEMIXER, jitter=block.jitter_eps)
        case "llama4":
            return Gate(Scores.SIGMOID, Weighting.AS_THEY_ARE, on_input=True)
        case "jamba":  # the flag exists on corrected blocks only, here and below: mlx-lm's own blocks have none
            return _gate("softmax", renormalised=False) if hasattr(block, "norm_topk_prob") else TOP_K_SOFTMAX
        case "qwen2_moe" | "hunyuan":
            return _gate("softmax", renormalised=getattr(block, "norm_topk_prob", False))
        case "deepseek":
            return _gate("softmax", renormalised=False)
        case "qwen3_moe" | "qwen3_next" | "olmoe" | "mellum":
            return _gate("softmax", renormalised=block.norm_topk_prob)
        case "dbrx":
            return _gate("softmax", renormalised=True)
        case "ernie4_5_moe":
            return _kept_from_zero(_gate(block.args.moe_gate_act, renormalised=True), smallest=1e-12)
        case "minimax":
            return _kept_from_zero(_gate("sigmoid", renormalised=True), added=1e-20)
        case "minimax_m3_vl":
            gate = _gate("sigmoid", renormalised=True, scale=block.routed_scaling_factor)
            return _kept_from_zero(gate, added=1e-20)
        case "lfm2_moe":
            gate = _gate("sigmoid", renormalised=block.norm_topk_prob, scale=block.routed_scaling_factor)
            return _kept_from_zero(gate, added=1e-6)
        case "mistral4":
            args = block.args
            return _gate("softmax", renormalised=args.norm_topk_prob, scale=args.routed_scaling_factor)
        case "afmoe":
            several = block.num_experts_per_tok > 1
            return _gate(block.score_func, renormalised=block.route_norm and several, scale=block.route_scale)
        case "kimi_linear" | "kimi_k3":
            return _kimi(family, block.args)
        case _:
            return _of_router(family, block, router)


def _of_router(family: str, block: Any, router: Any) -> Gate | None:
    """Return the gate of families whose routers return indices and weights."""
    several = getattr(router, "top_k", 0) > 1
    match family:
        case "deepseek_v2":
            return _gate("softmax", renormalised=False, scale=router.routed_scaling_factor)
        case (
            "deepseek_v3"
            | "deepseek_v32"
            | "glm4_moe"
            | "glm4_moe_lite"
            | "mimo_v2_flash"
            | "dots1"
            | "exaone_moe"
            | "nemotron_h"
        ):
            renormalised = router.norm_topk_prob and several
            return _gate("sigmoid", renormalised=renormalised, scale=router.routed_scaling_factor)
        case "step3p5":
            return _gate("sigmoid", renormalised=router.norm_topk_prob, scale=router.routed_scaling_factor)
        case "bailing_moe" | "bailing_moe_linear" | "bailing_hybrid":
            renormalised = router.norm_topk_prob and several
            return _gate(router.score_function, renormalised=renormalised, scale=router.routed_scaling_factor)
        case "bailing_moe_v3":
            return _gate("sigmoid", renormalised=True, scale=router.routed_scaling_factor)
        case "laguna":
            return _gate(router.score_func, renormalised=True, scale=block.routed_scaling_factor)
        case "deepseek_v41":
            renormalised = router.norm_topk_prob and several
            return _gate(router.score_func, renormalised=renormalised, scale=router.route_scale)
        case "longcat_flash":
            return _gate("softmax", renormalised=router.norm_topk_prob, scale=router.routed_scaling_factor)
        case _:
            return None


def _kimi(family: str, args: Any) -> Gate | None:
    renormalised = args.moe_renormalize and args.num_experts_per_token > 1
    function = args.moe_router_activation_func if family == "kimi_linear" else "sigmoid"
    return _gate(function, renormalised=renormalised, scale=args.routed_scaling_factor)


def _gate(function: str, *, renormalised: bool, scale: float | None = 1.0) -> Gate | None:
    if function not in SCORES:
        return None
    weighting = Weighting.RENORMALISED if renormalised else Weighting.AS_THEY_ARE
    return Gate(SCORES[function], weighting, scale=1.0 if scale is None else float(scale))


def _kept_from_zero(gate: Gate | None, *, smallest: float = 0.0, added: float = 0.0) -> Gate | None:
    """Add the constant with which mlx-lm keeps the sum of selected scores above 0.

    It has an effect if weights are computed from logits and scores are not a softmax: softmax scores selected without a
    bias sum to at least k / E. Routers that return weights have divided them already.
    """
    if gate is None or gate.weighting is not Weighting.RENORMALISED or gate.scores is Scores.SOFTMAX:
        return gate
    return replace(gate, smallest_sum=smallest, added_to_sum=added)


def linear_logits(family: str, router: Any, product: Any) -> Any:
    """Return the logits of a router from the output of its linear module, in the graph of the pass, in float32."""
    logits = product.astype(mx.float32)
    if family == "laguna" and router.softcap > 0.0:
        return mx.tanh(logits / router.softcap) * router.softcap
    return logits


def raw_logits(family: str, router: Any, x: Any) -> Any:
    """Return the logits of a router with a weight and no linear module, by recomputing its product."""
    if family in ("bailing_moe_v3", "deepseek_v41"):
        logits = x.astype(mx.float32) @ router.weight.astype(mx.float32).T
        return logits / router.gate_temp if family == "deepseek_v41" else logits
    return (x @ router.weight.T).astype(mx.float32)
