"""How often experts are used: counts in a window, and what follows from counts.

Usage is about selections over time and is never called `router_entropy`, which is about one decision.
"""

from __future__ import annotations

import numpy as np

from routing.arrays import ABSENT, Floats, Ints


class UsageWindow:
    """Selections per layer and expert over the last `size` tokens; size 0 keeps all.

    In a layer, counts sum to rows × k: rows that an engine did not compute are not counted.
    """

    def __init__(self, layers: int, experts: int, size: int = 0) -> None:
        self.size = size
        self.counts: Ints = np.zeros((layers, experts), np.int64)
        """[L, E]"""
        self.rows: Ints = np.zeros(layers, np.int64)
        """[L]"""
        self.tokens = 0
        """Tokens in the window."""
        self._ring: list[Ints] = []
        self._next = 0

    def add(self, experts: Ints) -> None:
        """Add one token's expert ids `[L, k]`, dropping the oldest token of a full window."""
        if self.size:
            self._remember(experts)
        self.tokens += 1
        self._count(experts, 1)

    def shares(self) -> Floats:
        """Share of the selections in its layer that each expert got `[L, E]`; NaN in layers without rows."""
        return shares(self.counts)

    def _remember(self, experts: Ints) -> None:
        if len(self._ring) < self.size:
            self._ring.append(experts)
            return
        self._count(self._ring[self._next], -1)
        self.tokens -= 1
        self._ring[self._next] = experts
        self._next = (self._next + 1) % self.size

    def _count(self, experts: Ints, step: int) -> None:
        add_selections(self.counts, experts, step)
        self.rows += np.where(experts[:, 0] != ABSENT, step, 0)


def add_selections(counts: Ints, experts: Ints, step: int = 1) -> None:
    """Add `step` for each selected expert `[L, k]` to `counts` `[L, E]`, in place."""
    layers = np.arange(len(experts))[:, None]
    if experts.min(initial=0) == ABSENT:
        computed = experts[:, 0] != ABSENT
        layers, experts = layers[computed], experts[computed]
    counts[layers, experts] += step


def shares(counts: Ints) -> Floats:
    """Counts `[…, E]` as shares of their sum; NaN where there is nothing to share."""
    totals = counts.sum(-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        result: Floats = counts / totals
    return result


def usage_entropy(counts: Ints) -> Floats:
    """Entropy of usage over ln E, per layer `[L]`; 1 is perfectly even; NaN without selections."""
    portions = shares(counts)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(portions == 0, 0.0, portions * np.log(portions))
    result: Floats = -terms.sum(-1) / np.log(counts.shape[-1])
    return result


def gini(counts: Ints) -> Floats:
    """Gini coefficient of usage per layer `[L]`: 0 is even, (E−1)/E is one expert alone; NaN without selections."""
    experts = counts.shape[-1]
    ranks = np.arange(1, experts + 1)
    ascending = np.sort(shares(counts), -1)
    result: Floats = (2 * (ranks * ascending).sum(-1) - (experts + 1)) / experts
    return result


def experts_for(counts: Ints, share: float = 0.9) -> Ints:
    """How many experts carry `share` of a layer's selections `[L]`; 0 without selections."""
    descending = -np.sort(-counts, -1)
    reached = np.cumsum(descending, -1) >= share * counts.sum(-1, keepdims=True)
    return np.where(counts.sum(-1) > 0, reached.argmax(-1) + 1, 0)


def dead(counts: Ints) -> Ints:
    """Experts never selected, per layer `[L]`. Say the window's size beside it."""
    return np.asarray((counts == 0).sum(-1), np.int64)


def jensen_shannon_distance(p: Floats, q: Floats) -> Floats:
    """Square root of the Jensen–Shannon divergence to base 2, over the last axis: 0 equal, 1 disjoint."""
    middle = (p + q) / 2
    divergence = (_relative_entropy(p, middle) + _relative_entropy(q, middle)) / 2
    return np.sqrt(np.maximum(divergence, 0.0))


def _relative_entropy(p: Floats, q: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p == 0, 0.0, p * np.log2(p / q))
    result: Floats = terms.sum(-1)
    return result


def overlap(now: Ints, before: Ints) -> Floats:
    """Jaccard similarity of two tokens' expert sets `[L, k]`, per layer `[L]`; NaN where either is absent.

    1 − overlap is `churn`.
    """
    present = (now[:, 0] != ABSENT) & (before[:, 0] != ABSENT)
    shared = np.where(present, (now[:, :, None] == before[:, None, :]).sum((1, 2)), 0)
    return np.where(present, shared / (2 * now.shape[1] - shared), np.nan)
