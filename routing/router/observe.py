"""Observation of a router's output as it is recorded: order, weights, router entropy, router margin.

Definitions and names: docs/measurements.md, "Routing, per token and layer".

References: shannon-1948, hill-1973.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moe_watch.routing.arrays import ABSENT, AnyFloats, AnyInts, Flags, Floats, Ints
from moe_watch.routing.events import Units
from moe_watch.routing.router.gates import Gate, Weighting, parse, probabilities, scores, weights

UNITS = Units()

SMALLEST = float(np.finfo(np.float64).tiny)
"""Replaces a probability of 0 in a logarithm; its term in an entropy is 0."""


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """Routing of `T` tokens, ready to be recorded; `ABSENT` where a layer was not computed, or a number is NaN.

    Weights, entropy and margin are in the header's units, and None if the gate is unknown.
    """

    experts: Ints
    """[T, L, k], by router probability descending, ties by id; by id alone if the gate is unknown."""
    weights: Ints | None
    """[T, L, k]"""
    entropy: Ints | None
    """[T, L], over ln E"""
    margin: Ints | None
    """[T, L]"""


def normalised_entropy(probabilities: Floats) -> Floats:
    """Return −Σ π ln π / ln E over the last axis: 0 is certain, 1 is uniform; NaN for E = 1, where there is no choice.

    References: shannon-1948.
    """
    logarithms = np.log(np.maximum(probabilities, SMALLEST))
    with np.errstate(invalid="ignore"):
        result: Floats = -np.einsum("...e,...e->...", probabilities, logarithms) / np.log(probabilities.shape[-1])
    return result


def effective_experts(router_entropy: Floats | float, experts: int) -> Floats:
    """Return exp(−Σ π ln π): the number of equally likely experts with the same entropy.

    Args:
        router_entropy: over ln E.
        experts: E.

    References: hill-1973.
    """
    result: Floats = np.exp(np.asarray(router_entropy, np.float64) * np.log(experts))
    return result


def router_margin(probabilities: Floats) -> Floats:
    """Return π₍₁₎ − π₍₂₎ over the last axis; NaN for E = 1, where there is no second expert."""
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
    """Convert a router's output to the numbers that are recorded.

    Args:
        logits: `[T, L, E]`, any values in rows that were not computed; None if the engine does not give them.
        experts: `[T, L, k]`, as selected by the model, in any order; `ABSENT` in rows that were not computed.
        gate: the model's gate, by its name in `moe_watch.routing.router.gates`. Any other name is an unknown gate:
            weights, entropy and margin are None.
        applied: `[T, L, k]`, the weights that the model applied to `experts`, if the engine gives them; otherwise
            they are computed from the logits.
        scored: `[T, L, E]`, the gate's scores in place of logits, if the engine gives those; never for a sparsemixer,
            whose weights depend on the logits.

    Raises:
        ValueError: `scored` was given for a sparsemixer.
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
    return _mask_absent(computed, _observe(known, anything, chosen, whole, is_scored=scored is not None))


def observe_by_layer(
    logits: AnyFloats | None,
    experts: AnyInts,
    gate: str,
    applied: AnyFloats | None = None,
    *,
    k: Ints,
    scored: AnyFloats | None = None,
) -> Observation:
    """Convert a router's output like `observe`, for layers that select different numbers of experts.

    Args:
        logits: as for `observe`.
        experts: `[T, L, K]`; in a layer that selects fewer than K, the rest of a row is padding.
        gate: as for `observe`.
        applied: `[T, L, K]`, with the same padding.
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
    return _merge_layers(found, experts.shape[:3])


def _merge_layers(found: list[tuple[Ints, Observation]], shape: tuple[int, ...]) -> Observation:
    """Merge observations of some layers each into one of all layers; `ABSENT` where a layer selects fewer experts."""
    layers = [at for at, _ in found]

    def merge(tables: list[Ints]) -> Ints:
        whole = np.full(shape, ABSENT, np.int64)
        for at, table in zip(layers, tables, strict=True):
            whole[:, at, : table.shape[-1]] = table
        return whole

    def merge_known(tables: list[Ints | None]) -> Ints | None:
        known = [table for table in tables if table is not None]
        return merge(known) if len(known) == len(tables) else None

    def merge_values(tables: list[Ints | None]) -> Ints | None:
        whole = merge_known([None if table is None else table[..., None] for table in tables])
        return None if whole is None else whole[..., 0]

    return Observation(
        merge([seen.experts for _, seen in found]),
        merge_known([seen.weights for _, seen in found]),
        merge_values([seen.entropy for _, seen in found]),
        merge_values([seen.margin for _, seen in found]),
    )


def _observe(gate: Gate, given: AnyFloats, chosen: Ints, applied: AnyFloats | None, *, is_scored: bool) -> Observation:
    """Observe rows that were all computed, with a known gate; `given` are scores or logits."""
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
    """Return the positions `[T, L, k]` that sort each row's experts by probability descending, ties by id."""
    return np.lexsort((chosen, -np.take_along_axis(probs, chosen, -1)), axis=-1)


def _mask_absent(computed: Flags, seen: Observation) -> Observation:
    """Return the observation with `ABSENT` in rows `[T, L]` that were not computed."""
    return Observation(
        np.where(computed[..., None], seen.experts, ABSENT),
        None if seen.weights is None else np.where(computed[..., None], seen.weights, ABSENT),
        None if seen.entropy is None else np.where(computed, seen.entropy, ABSENT),
        None if seen.margin is None else np.where(computed, seen.margin, ABSENT),
    )


def _steps(values: AnyFloats, unit: float) -> Ints:
    """Return values as whole steps of `unit`; `ABSENT` where the result is not finite, or negative by a fault."""
    steps = np.rint(values.astype(np.float64) / unit)
    return np.where(np.isfinite(steps) & (steps >= 0), steps, ABSENT).astype(np.int64)
