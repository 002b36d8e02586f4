"""Expert usage: selections counted in a window, and the statistics of the counts.

Usage describes selections over time; `router_entropy` describes a single decision.

References: shannon-1948, jaccard-1912, kullback-leibler-1951, lin-1991, endres-schindelin-2003, gini-1912.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from moe_watch.routing.arrays import ABSENT, Flags, Floats, Ints, Selections


class UsageCounts:
    """Selections per layer and expert, over all tokens fed.

    In a layer, counts sum to rows × k: rows that an engine did not compute are not counted.
    """

    def __init__(self, layers: int, experts: int) -> None:
        self.counts: Ints = np.zeros((layers, experts), np.int64)
        """[L, E]"""
        self.rows: Ints = np.zeros(layers, np.int64)
        """[L]"""
        self.tokens = 0
        """Tokens fed."""

    def feed(self, experts: Ints) -> None:
        """Count one token's expert ids `[L, k]`."""
        row = _row(experts, self.counts.shape[1])
        self.tokens += 1
        self.counts.reshape(-1)[row.cells] += 1
        self.rows[row.layers] += 1

    def merge(self, counts: Ints, rows: Ints, tokens: int) -> None:
        """Add tokens already counted: `counts` `[L, E]` and `rows` `[L]`; negative numbers remove tokens."""
        self.counts += counts
        self.rows += rows
        self.tokens += tokens

    def shares(self) -> Floats:
        """Return each expert's share of the selections in its layer `[L, E]`; NaN in layers without rows."""
        return shares(self.counts)


class _Row(NamedTuple):
    """Positions at which one token is counted."""

    cells: Ints
    """Positions in the flattened table `[L, E]`."""
    layers: Ints | slice
    """Layers that were computed."""


def _row(experts: Ints, number: int) -> _Row:
    """Return the positions of expert ids `[L, k]` in a table of `number` experts."""
    cells = experts + np.arange(len(experts))[:, None] * number
    if (experts[:, -1] != ABSENT).all():
        return _Row(cells.ravel(), slice(None))
    return _Row(cells[experts != ABSENT], np.flatnonzero(experts[:, 0] != ABSENT))


def add_selections(counts: Ints, experts: Ints) -> None:
    """Count one token's expert ids `[L, k]` in `counts` `[L, E]`, in place."""
    counts.flat[_row(experts, counts.shape[1]).cells] += 1


def shares(counts: Ints) -> Floats:
    """Return counts `[…, E]` divided by their sum; NaN where the sum is 0."""
    totals = counts.sum(-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        result: Floats = counts / totals
    return result


def usage_entropy(counts: Ints) -> Floats:
    """Return the entropy of usage over ln E, per layer `[L]`: 1 is even; NaN without selections, or for E = 1.

    References: shannon-1948.
    """
    portions = shares(counts)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(portions == 0, 0.0, portions * np.log(portions))
        result: Floats = -terms.sum(-1) / np.log(counts.shape[-1])
    return result


def gini(counts: Ints) -> Floats:
    """Return the Gini coefficient of usage per layer `[L]`: 0 is even, (E−1)/E is one expert; NaN without selections.

    References: gini-1912.
    """
    experts = counts.shape[-1]
    ranks = np.arange(1, experts + 1)
    ascending = np.sort(shares(counts), -1)
    result: Floats = (2 * (ranks * ascending).sum(-1) - (experts + 1)) / experts
    return result


def experts_for(counts: Ints, share: float = 0.9) -> Ints:
    """Return the smallest number of experts that have `share` of a layer's selections `[L]`; 0 without selections."""
    if not counts.size:
        return np.zeros(len(counts), np.int64)
    descending = -np.sort(-counts, -1)
    reached = np.cumsum(descending, -1) >= share * counts.sum(-1, keepdims=True)
    return np.where(counts.sum(-1) > 0, reached.argmax(-1) + 1, 0)


def dead(counts: Ints, off: Flags | None = None) -> Ints:
    """Return the number of experts without a selection, per layer `[L]`. Report the size of the window with it.

    Args:
        counts: selections `[L, E]`.
        off: `[L, E]` True for experts that were switched off in a part of the window; these are not counted.
    """
    unused = counts == 0
    return np.asarray((unused if off is None else unused & ~off).sum(-1), np.int64)


def jensen_shannon_distance(p: Floats, q: Floats) -> Floats:
    """Return the square root of the Jensen–Shannon divergence to base 2, over the last axis: 0 equal, 1 disjoint.

    References: lin-1991, endres-schindelin-2003.
    """
    middle = (p + q) / 2
    with np.errstate(invalid="ignore"):
        divergence = (_relative_entropy(p, middle) + _relative_entropy(q, middle)) / 2
    return np.sqrt(np.maximum(divergence, 0.0))


def _relative_entropy(p: Floats, q: Floats) -> Floats:
    """Return the relative entropy Σ p log₂(p / q) over the last axis.

    References: kullback-leibler-1951.
    """
    terms: Floats = p / q
    np.copyto(terms, 1.0, where=p == 0)  # so that its term is 0; logarithms of 0 are slow
    np.log2(terms, out=terms)
    terms *= p
    total: Floats = terms.sum(-1)
    return total


def overlap(now: Ints, before: Ints) -> Floats:
    """Return the Jaccard similarity of two tokens' expert sets `[L, k]`, per layer `[L]`; NaN where either is absent.

    1 − overlap is `churn`.

    References: jaccard-1912.
    """
    present = (now[:, 0] != ABSENT) & (before[:, 0] != ABSENT)
    equal = now[:, :, None] == before[:, None, :]
    chosen: Ints | int = now.shape[1]
    if (now[:, -1] == ABSENT).any():
        there = now != ABSENT
        equal &= there[:, :, None]
        chosen = np.maximum(there.sum(1), 1)
    shared = equal.reshape(len(now), equal.shape[1] * equal.shape[2]).sum(1) * present
    return np.where(present, shared / (2 * chosen - shared), np.nan)


def overlaps(now: Selections, before: Ints | None) -> Floats:
    """Return the `overlap` of each token with the token before it, per layer `[N, L]`.

    Args:
        now: successive tokens.
        before: expert ids `[L, k]` of the token before the first one, None if there was none.
    """
    tokens, layers, chosen = now.ids.shape
    table = layers * now.experts
    first = Selections(np.full((1, layers, chosen), ABSENT) if before is None else before[None], now.experts)
    places = now.cells.reshape(tokens, -1) + np.arange(tokens)[:, None] * table
    earlier = np.zeros(tokens * table, np.bool_)  # [N·L·E] True if the token before selected it
    earlier[first.cells[first.present]] = True
    following = places[:-1] + table
    earlier[following if now.whole else following[now.present.reshape(tokens, -1)[:-1]]] = True
    selected_before = earlier[places].reshape(now.ids.shape)
    shared = (selected_before if now.whole else selected_before & now.present).sum(-1)
    present = now.computed & np.concatenate((first.computed, now.computed[:-1]))
    return np.where(present, shared / (2 * now.experts_per_row() - shared), np.nan)
