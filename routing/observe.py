"""From what a router computed to what is recorded: probabilities, order, weights, entropy, margin.

Definitions and names: docs/measurements.md, "Routing, per token and layer".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from routing.arrays import ABSENT, AnyFloats, AnyInts, Floats, Ints
from routing.events import Units
from routing.gates import Gate, parse, probabilities, scores, weights

UNITS = Units()


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


def observe(logits: AnyFloats | None, experts: AnyInts, gate: str, applied: AnyFloats | None = None) -> Observation:
    """Turn a router's own output into what is recorded.

    Args:
        logits: `[T, L, E]`, anything in rows that were not computed; None if the router shows none.
        experts: `[T, L, k]`, as selected by the model, in any order; `ABSENT` in rows not computed.
        gate: how the model turns logits into weights, as `routing.gates` names it; anything else is unknown and
            leaves weights, entropy and margin out.
        applied: `[T, L, k]`, the weights that the model applied to `experts`, if it shows them; without them they
            are computed from the logits.
    """
    known = parse(gate)
    if logits is None or known is None:
        return Observation(np.sort(experts.astype(np.int64), axis=-1), None, None, None)
    computed = experts[..., 0] != ABSENT
    chosen = np.where(computed[..., None], experts, 0).astype(np.int64)
    return _observe(known, np.where(computed[..., None], logits, 0.0), chosen, applied, computed)


def _observe(
    gate: Gate, logits: AnyFloats, chosen: Ints, applied: AnyFloats | None, computed: npt.NDArray[np.bool_]
) -> Observation:
    """As `observe`, for a known gate and numbers in all rows; `computed` `[T, L]` says which of them count."""
    scored = scores(gate, logits)
    spread = probabilities(scored)
    order = _by_probability(spread, chosen)
    ordered = np.take_along_axis(chosen, order, -1)
    multiplied = weights(gate, logits, scored, ordered) if applied is None else np.take_along_axis(applied, order, -1)
    return Observation(
        np.where(computed[..., None], ordered, ABSENT),
        None if multiplied is None else np.where(computed[..., None], _steps(multiplied, UNITS.weights), ABSENT),
        np.where(computed, _steps(normalised_entropy(spread), UNITS.entropy), ABSENT),
        np.where(computed, _steps(router_margin(spread), UNITS.margin), ABSENT),
    )


def _by_probability(spread: Floats, chosen: Ints) -> Ints:
    """How to sort each token's experts by probability descending, ties by id: positions `[T, L, k]`."""
    return np.lexsort((chosen, -np.take_along_axis(spread, chosen, -1)), axis=-1)


def _steps(values: AnyFloats, unit: float) -> Ints:
    """Values as whole steps of `unit`; 0 where there is no number, which is in rows that do not count."""
    return np.rint(np.nan_to_num(values.astype(np.float64)) / unit).astype(np.int64)
