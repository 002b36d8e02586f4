"""From what a router computed to what is recorded: probabilities, order, weights, entropy, margin.

Definitions and names: docs/measurements.md, "Routing, per token and layer".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moe_watch.routing.arrays import ABSENT, AnyFloats, AnyInts, Flags, Floats, Ints
from moe_watch.routing.events import Units
from moe_watch.routing.router.gates import Gate, Weighting, parse, probabilities, scores, weights

UNITS = Units()

SMALLEST = float(np.finfo(np.float64).tiny)
"""In place of a probability of 0, whose term in an entropy is 0."""


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """`T` tokens, ready to be recorded; `ABSENT` where a layer was not computed, or a number is none.

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
    """−Σ π ln π / ln E over the last axis: 0 is certain, 1 is uniform; NaN for E = 1, where there is no choice."""
    logarithms = np.log(np.maximum(probabilities, SMALLEST))
    with np.errstate(invalid="ignore"):
        result: Floats = -np.einsum("...e,...e->...", probabilities, logarithms) / np.log(probabilities.shape[-1])
    return result


def effective_experts(router_entropy: Floats | float, experts: int) -> Floats:
    """exp(−Σ π ln π): how many equally likely experts would be as uncertain."""
    result: Floats = np.exp(np.asarray(router_entropy, np.float64) * np.log(experts))
    return result


def router_margin(probabilities: Floats) -> Floats:
    """π₍₁₎ − π₍₂₎ over the last axis; NaN for E = 1, where there is no second."""
    if probabilities.shape[-1] == 1:
        return np.full(probabilities.shape[:-1], np.nan)
    rows = probabilities.reshape(-1, probabilities.shape[-1]).copy()
    every = np.arange(len(rows))
    best = rows.argmax(-1)
    first = rows[every, best]
    rows[every, best] = -1.0
    result: Floats = (first - rows[every, rows.argmax(-1)]).reshape(probabilities.shape[:-1])
    return result


def observe(
    logits: AnyFloats | None,
    experts: AnyInts,
    gate: str,
    applied: AnyFloats | None = None,
    *,
    scored: AnyFloats | None = None,
) -> Observation:
    """Turn a router's own output into what is recorded.

    Args:
        logits: `[T, L, E]`, anything in rows that were not computed; None if the router shows none.
        experts: `[T, L, k]`, as selected by the model, in any order; `ABSENT` in rows not computed.
        gate: how the model turns logits into weights, as `moe_watch.routing.router.gates` names it; anything else is
        unknown and
            leaves weights, entropy and margin out.
        applied: `[T, L, k]`, the weights that the model applied to `experts`, if it shows them; without them they
            are computed from the logits.
        scored: `[T, L, E]`, in place of logits: what the gate made of them, where the router shows that; never for
            a sparsemixer, whose weights depend on the logits themselves.
    """
    known = parse(gate)
    if scored is not None and known is not None and known.weighting is Weighting.SPARSEMIXER:
        raise ValueError("a sparsemixer's weights do not follow from its scores")
    given = logits if scored is None else scored
    if given is None or known is None:
        return Observation(np.sort(experts.astype(np.int64), axis=-1), None, None, None)
    computed = experts[..., 0] != ABSENT
    if computed.all():
        return _observe(known, given, experts.astype(np.int64), applied, is_scored=scored is not None)
    if not computed.any():
        nothing = np.full(computed.shape, ABSENT, np.int64)
        return Observation(experts.astype(np.int64), experts.astype(np.int64), nothing, nothing)
    chosen = np.where(computed[..., None], experts, 0).astype(np.int64)
    anything = np.where(computed[..., None], given, 1.0)
    whole = None if applied is None else np.where(computed[..., None], applied, 0.0)
    return _without(computed, _observe(known, anything, chosen, whole, is_scored=scored is not None))


def observe_by_layer(
    logits: AnyFloats | None,
    experts: AnyInts,
    gate: str,
    applied: AnyFloats | None = None,
    *,
    k: Ints,
    scored: AnyFloats | None = None,
) -> Observation:
    """As `observe`, for layers that select different numbers of experts.

    Args:
        logits: as for `observe`.
        experts: `[T, L, K]`; in a layer that selects fewer than K, the rest of a row holds nothing.
        gate: as for `observe`.
        applied: `[T, L, K]`, likewise.
        k: experts per token of each layer `[L]`.
        scored: as for `observe`.
    """
    found = []
    for chosen in np.unique(k).tolist():
        at = np.flatnonzero(k == chosen)
        seen = observe(
            None if logits is None else logits[:, at],
            experts[:, at, :chosen],
            gate,
            None if applied is None else applied[:, at, :chosen],
            scored=None if scored is None else scored[:, at],
        )
        found.append((at, seen))
    return _together(found, experts.shape[:3])


def _together(found: list[tuple[Ints, Observation]], shape: tuple[int, ...]) -> Observation:
    """Observations of some layers each, as one of all layers; `ABSENT` where a layer selects fewer experts."""

    def joined(pieces: list[tuple[Ints, Ints | None]]) -> Ints | None:
        table = np.full(shape, ABSENT, np.int64)
        for at, piece in pieces:
            if piece is None:
                return None
            table[:, at, : piece.shape[-1]] = piece
        return table

    def joined_layers(pieces: list[tuple[Ints, Ints | None]]) -> Ints | None:
        found = joined([(at, None if piece is None else piece[..., None]) for at, piece in pieces])
        return None if found is None else found[..., 0]

    experts = joined([(at, seen.experts) for at, seen in found])
    assert experts is not None
    return Observation(
        experts,
        joined([(at, seen.weights) for at, seen in found]),
        joined_layers([(at, seen.entropy) for at, seen in found]),
        joined_layers([(at, seen.margin) for at, seen in found]),
    )


def _observe(gate: Gate, given: AnyFloats, chosen: Ints, applied: AnyFloats | None, *, is_scored: bool) -> Observation:
    """As `observe`, for a known gate, where every layer was computed; `given` are scores or logits."""
    with np.errstate(invalid="ignore"):  # a router may overflow
        scored = given.astype(np.float64) if is_scored else scores(gate, given)
        probs = probabilities(scored)
        order = _by_probability(probs, chosen)
        ordered = np.take_along_axis(chosen, order, -1)
        from_logits = weights(gate, given, scored, ordered) if applied is None else None
    multiplied = from_logits if applied is None else np.take_along_axis(applied, order, -1)
    return Observation(
        ordered,
        None if multiplied is None else _steps(multiplied, UNITS.weights),
        _steps(normalised_entropy(probs), UNITS.entropy),
        _steps(router_margin(probs), UNITS.margin),
    )


def _by_probability(probs: Floats, chosen: Ints) -> Ints:
    """How to sort each token's experts by probability descending, ties by id: positions `[T, L, k]`."""
    return np.lexsort((chosen, -np.take_along_axis(probs, chosen, -1)), axis=-1)


def _without(computed: Flags, seen: Observation) -> Observation:
    """The same with nothing in rows `[T, L]` that were not computed."""
    return Observation(
        np.where(computed[..., None], seen.experts, ABSENT),
        None if seen.weights is None else np.where(computed[..., None], seen.weights, ABSENT),
        None if seen.entropy is None else np.where(computed, seen.entropy, ABSENT),
        None if seen.margin is None else np.where(computed, seen.margin, ABSENT),
    )


def _steps(values: AnyFloats, unit: float) -> Ints:
    """Values as whole steps of `unit`; `ABSENT` where that is no number, or a negative one, which none can be."""
    steps = np.rint(values.astype(np.float64) / unit)
    return np.where(np.isfinite(steps) & (steps >= 0), steps, ABSENT).astype(np.int64)
