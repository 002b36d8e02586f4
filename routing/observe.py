"""From what a router computed to what is recorded: probabilities, order, weights, entropy, margin.

Definitions and names: docs/measurements.md, "Routing, per token and layer".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from routing.arrays import ABSENT, AnyFloats, AnyInts, Floats, Ints
from routing.events import Units

UNITS = Units()

SOFTMAX_GATES = ("top_k_softmax", "softmax_top_k", "softmax_top_k_renormalised")
"""Gates whose probabilities are the softmax of the logits; they differ in the weights they apply:

`top_k_softmax` takes the softmax of the selected logits, `softmax_top_k` the selected probabilities as they are,
`softmax_top_k_renormalised` divides those by their sum. (First and last are the same number, computed differently.)
"""


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """`T` tokens, ready to be recorded; `ABSENT` where a layer was not computed.

    Weights, entropy and margin are in the header's units, and None where the gate is not known.
    """

    experts: Ints
    """[T, L, k], by router probability descending, ties by id; by id alone where the gate is not known."""
    weights: Ints | None
    """[T, L, k]"""
    entropy: Ints | None
    """[T, L], over ln E"""
    margin: Ints | None
    """[T, L]"""


def softmax(logits: AnyFloats) -> Floats:
    """Softmax over the last axis, in float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    total: Floats = shifted / shifted.sum(-1, keepdims=True)
    return total


def normalised_entropy(probabilities: Floats) -> Floats:
    """−Σ π ln π / ln E over the last axis: 0 is certain, 1 is uniform."""
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(probabilities > 0, probabilities * np.log(probabilities), 0.0)
    result: Floats = -terms.sum(-1) / np.log(probabilities.shape[-1])
    return result


def effective_experts(router_entropy: Floats | float, experts: int) -> Floats:
    """exp(−Σ π ln π): how many equally likely experts would be as uncertain."""
    result: Floats = np.exp(np.asarray(router_entropy, np.float64) * np.log(experts))
    return result


def router_margin(probabilities: Floats) -> Floats:
    """π₍₁₎ − π₍₂₎ over the last axis."""
    top = np.partition(probabilities, -2, axis=-1)
    result: Floats = top[..., -1] - top[..., -2]
    return result


def observe(logits: AnyFloats | None, experts: AnyInts, gate: str) -> Observation:
    """Turn a router's own output into what is recorded.

    Args:
        logits: `[T, L, E]`, NaN in rows that were not computed; None if the router shows none.
        experts: `[T, L, k]`, as selected by the model, in any order; `ABSENT` in rows not computed.
        gate: how the model turns logits into weights, one of `SOFTMAX_GATES`; anything else is unknown and
            leaves weights, entropy and margin out.
    """
    if logits is None or gate not in SOFTMAX_GATES:
        return Observation(np.sort(experts.astype(np.int64), axis=-1), None, None, None)
    computed = experts[..., 0] != ABSENT
    probabilities = softmax(np.where(computed[..., None], logits, 0.0))
    ordered, selected = _by_probability(np.where(computed[..., None], experts, 0), probabilities)
    weights = selected if gate == "softmax_top_k" else selected / selected.sum(-1, keepdims=True)
    return Observation(
        np.where(computed[..., None], ordered, ABSENT),
        np.where(computed[..., None], _steps(weights, UNITS.weights), ABSENT),
        np.where(computed, _steps(normalised_entropy(probabilities), UNITS.entropy), ABSENT),
        np.where(computed, _steps(router_margin(probabilities), UNITS.margin), ABSENT),
    )


def _by_probability(experts: AnyInts, probabilities: Floats) -> tuple[Ints, Floats]:
    """Sort each token's experts by probability descending, ties by id; with their probabilities."""
    by_id = np.sort(experts.astype(np.int64), axis=-1)
    selected = np.take_along_axis(probabilities, by_id, -1)
    order = np.argsort(-selected, axis=-1, kind="stable")
    return np.take_along_axis(by_id, order, -1), np.take_along_axis(selected, order, -1)


def _steps(values: Floats, unit: float) -> Ints:
    """Values as whole steps of `unit`."""
    return np.rint(values / unit).astype(np.int64)
