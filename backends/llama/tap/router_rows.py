"""Router rows that a tap reads, and the routing of one evaluation that is assembled from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from moe_watch.backends.engine import Floats, Ints, RouterOutputs
from moe_watch.backends.tap_rows import ScoredRouting
from moe_watch.routing.arrays import ABSENT


@dataclass(frozen=True, slots=True, eq=False)
class RouterRows:
    """Output of the router of one layer for successive tokens."""

    layer: int
    """Model layer index."""
    experts: Ints
    """[T, k]"""
    scores: Floats
    """[T, E]: probabilities, or other scores that the model's gate computes from logits"""
    weights: Floats
    """[T, k]: scores of the selected experts, as the graph picks them"""


def routing(
    seen: Sequence[RouterRows],
    layers: Sequence[int],
    tokens: int,
    logits: Callable[[Floats], Floats] | None,
    *,
    is_scored: bool = False,
) -> RouterOutputs:
    """Return the routing of one evaluation of `tokens` tokens.

    Args:
        seen: router rows of successive passes, in order.
        layers: model layer indices, ascending.
        tokens: number of evaluated tokens.
        logits: function from scores to logits; None if the gate is not known, and logits are None then.
        is_scored: scores are not logits; logits are computed from them on access only.
    """
    by_layer = {
        layer: list(rows)
        for layer, rows in groupby(sorted(seen, key=lambda rows: rows.layer), key=lambda rows: rows.layer)
    }
    experts = [_for_all(tokens, [rows.experts for rows in by_layer.get(layer, [])], ABSENT) for layer in layers]
    if logits is None:
        return RouterOutputs(tokens=tokens, experts=experts, logits=[None] * len(layers))
    scores = [_for_all(tokens, [rows.scores for rows in by_layer.get(layer, [])], np.nan) for layer in layers]
    if is_scored:
        return ScoredRouting(tokens, experts, scores, logits)
    return RouterOutputs(tokens, experts, [None if rows is None else logits(rows) for rows in scores])


def _for_all(tokens: int, pieces: Sequence[Any], missing: float) -> Any:
    """Return the rows of all tokens, with `missing` in rows that llama.cpp did not compute.

    In the last layer it computes only tokens with an output, which is the last one.
    """
    if not pieces:
        return None
    rows = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
    if len(rows) == tokens:
        return rows
    if len(rows) != 1:
        raise RuntimeError(f"the tap failed: {len(rows)} rows for {tokens} tokens")
    every = np.full((tokens, rows.shape[1]), missing, rows.dtype)
    every[-1] = rows[0]
    return every
