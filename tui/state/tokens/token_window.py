"""Expert usage, router entropy and churn of the last tokens, in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from math import nan
from typing import NamedTuple

import numpy as np

from moe_watch.routing.arrays import Floats, Ints, Selections, integers
from moe_watch.routing.router.observe import effective_experts
from moe_watch.routing.usage.counts import UsageCounts, overlaps

WINDOW_TOKENS = 256
MARKS_KEPT = 64
_MEANS = ("entropy", "effective", "churn")
"""Quantities that are averaged over layers and tokens."""


Ids = Sequence[int | None] | Ints
"""Expert ids of one token, layer by layer, as an event has them; None where nothing was computed."""


class TokenRouting(NamedTuple):
    """Routing of one token."""

    experts: Ids
    entropy: Sequence[int | None] | None
    """Router entropy `[L]` in the recording's units; None where nothing was computed."""
    before: Ids | None
    """Experts of the token before it in this context."""


class TokenWindow:
    """Expert usage, router entropy and churn of the last `size` tokens of one phase.

    Added tokens are only counted when a property is read: NumPy takes hardly longer for all tokens of a frame than for
    one token. Shapes: `L` layers, `E` experts, `k` experts per token; NaN where a layer was not computed.

    Args:
        layers: L.
        experts: E.
        size: number of tokens kept.
        entropy_unit: value of 1 in an event's router entropy.
    """

    def __init__(self, layers: int, experts: int, size: int = WINDOW_TOKENS, *, entropy_unit: float = 1.0) -> None:
        self.experts = experts
        self._layers = layers
        self._size = size
        self._unit = entropy_unit
        self._usage = UsageCounts(layers, experts)
        self._waiting: list[TokenRouting] = []
        self._seen = 0
        self._ids: Ints | None = None
        """`[size, L, k]`"""
        self._entropy: Floats = np.full((size, layers), np.nan)
        self._totals: Floats = np.zeros((size, len(_MEANS)))
        """Sums over layers, one column per quantity of `_MEANS`."""
        self._known: Floats = np.zeros((size, len(_MEANS)))
        """Number of layers in each of these sums."""
        self._marks: deque[int] = deque(maxlen=MARKS_KEPT)
        """Numbers of tokens that were counted before each mark."""

    @property
    def usage(self) -> UsageCounts:
        """Selection counts of the tokens in the window."""
        self._settle()
        return self._usage

    @property
    def tokens(self) -> int:
        """Number of tokens in the window."""
        return self.usage.tokens

    def add(self, routing: TokenRouting) -> None:
        """Add a token."""
        self._waiting.append(routing)
        if len(self._waiting) > self._size:
            self._settle()

    def mark(self) -> None:
        """Mark the place after the last token."""
        self._settle()
        self._marks.append(self._seen)

    @property
    def marks(self) -> list[int]:
        """Places of marks: the number of tokens in the window before each; marks before its first token are absent."""
        before = self._seen - self.tokens
        return [mark - before for mark in self._marks if mark > before]

    def layer_entropy(self) -> Floats:
        """Return the mean router entropy per layer `[L]`."""
        return mean_of_known(self._entropy[: self.tokens], 0)

    def token_entropy(self) -> Floats:
        """Return the mean router entropy over layers of each token in the window, oldest first."""
        tokens = self.tokens
        oldest = self._seen % self._size if tokens == self._size else 0
        with np.errstate(invalid="ignore"):
            means = self._totals[:tokens, 0] / self._known[:tokens, 0]
        return np.roll(means, -oldest)

    def mean_entropy(self) -> float:
        """Return the mean router entropy over layers and tokens; NaN if none was recorded."""
        return self._mean("entropy")

    def effective(self) -> float:
        """Return the mean number of effective experts; NaN if no entropy was recorded."""
        return self._mean("effective")

    def churn(self) -> float:
        """Return the mean churn over layers and tokens; NaN before the second token."""
        return self._mean("churn")

    def _mean(self, name: str) -> float:
        column, tokens = _MEANS.index(name), self.tokens
        known = self._known[:tokens, column].sum()
        return float(self._totals[:tokens, column].sum() / known) if known else nan

    def _settle(self) -> None:
        """Count the waiting tokens, except tokens that would already have left the window."""
        waiting, self._waiting = self._waiting[-self._size :], []
        begin = 0
        for end in range(1, len(waiting) + 1):
            if end == len(waiting) or waiting[end].before is not waiting[end - 1].experts:
                self._count(waiting[begin:end])
                begin = end

    def _count(self, row: list[TokenRouting]) -> None:
        """Count consecutive tokens of one context."""
        ids = np.stack([experts_of(routing.experts, self._layers) for routing in row])
        entropy = self._entropy_of(row)
        chosen = Selections(ids, self.experts)
        first = row[0].before
        churn = 1 - overlaps(chosen, None if first is None else experts_of(first, self._layers))
        positions = np.arange(self._seen, self._seen + len(row))
        self._replace(positions, chosen)
        slots = positions % self._size
        self._entropy[slots] = entropy
        for column, values in enumerate((entropy, effective_experts(entropy, self.experts), churn)):
            known = ~np.isnan(values)
            self._known[slots, column] = known.sum(1)
            self._totals[slots, column] = np.where(known, values, 0.0).sum(1)
        self._seen += len(row)

    def _entropy_of(self, row: list[TokenRouting]) -> Floats:
        """Return the router entropy `[N, L]` of these tokens."""
        unknown = [None] * self._layers
        values = [unknown if routing.entropy is None else routing.entropy for routing in row]
        return np.array(values, np.float64) * self._unit  # None becomes NaN

    def _replace(self, positions: Ints, chosen: Selections) -> None:
        """Count these tokens, and subtract the tokens that leave the window."""
        if self._ids is None:
            self._ids = np.empty((self._size, *chosen.ids.shape[1:]), np.int64)
        leaving = positions[positions >= self._size] % self._size
        if len(leaving):
            left = Selections(self._ids[leaving], self.experts)
            self._usage.merge(-left.counts(), -left.rows(), -len(leaving))
        self._ids[positions % self._size] = chosen.ids
        self._usage.merge(chosen.counts(), chosen.rows(), len(positions))


def experts_of(ids: Ids, layers: int) -> Ints:
    """Return expert ids `[L, k]` of one token, `ABSENT` in layers that were not computed."""
    return (ids if isinstance(ids, np.ndarray) else integers(ids)).reshape(layers, -1)


def mean_of_known(values: Floats, axis: int) -> Floats:
    """Return the mean of the known values over `axis`; NaN where all are NaN."""
    known = ~np.isnan(values)
    number = known.sum(axis)
    total = np.where(known, values, 0.0).sum(axis)
    with np.errstate(invalid="ignore", divide="ignore"):
        result: Floats = total / number
    return result
