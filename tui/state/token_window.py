"""What the panels show of the last tokens, in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from math import nan
from typing import NamedTuple

import numpy as np

from moe_watch.routing.arrays import Floats, Ints, Selections, integers
from moe_watch.routing.router.observe import effective_experts
from moe_watch.routing.usage.counts import UsageWindow, overlaps

WINDOW_TOKENS = 256
RATE_SECONDS = 2.0
RATE_EVENTS = 4096
"""Bounds what is kept for the rate; a run this fast is measured over less than `RATE_SECONDS`."""
_MEANS = ("entropy", "effective", "churn")
"""What there are means of over layers and tokens."""


Ids = Sequence[int | None] | Ints
"""Expert ids of one token, layer by layer, as an event has them: null where nothing was computed."""


class TokenRouting(NamedTuple):
    """Routing of one token."""

    experts: Ids
    entropy: Sequence[int | None] | None
    """Router entropy [L] in the recording's units, null where nothing was computed."""
    before: Ids | None
    """Experts of the token before it in this context."""


class TokenWindow:
    """Expert usage, router entropy and churn of the last `size` tokens of one phase.

    Tokens wait until something is asked for: NumPy takes hardly longer for those of a whole frame than for one.
    Shapes: `L` layers, `E` experts, `k` experts per token; NaN where a layer was not computed.

    Args:
        layers: L.
        experts: E.
        size: tokens kept.
        entropy_unit: what 1 means in an event's router entropy.
    """

    def __init__(self, layers: int, experts: int, size: int = WINDOW_TOKENS, *, entropy_unit: float = 1.0) -> None:
        self.experts = experts
        self._layers = layers
        self._size = size
        self._unit = entropy_unit
        self._usage = UsageWindow(layers, experts)
        self._waiting: list[TokenRouting] = []
        self._seen = 0
        self._ids: Ints | None = None
        """[size, L, k]"""
        self._entropy: Floats = np.full((size, layers), np.nan)
        self._totals: Floats = np.zeros((size, len(_MEANS)))
        """Sums over layers of what there are means of."""
        self._known: Floats = np.zeros((size, len(_MEANS)))
        """How many layers are in each of these sums."""

    @property
    def usage(self) -> UsageWindow:
        """Selections of the tokens in the window."""
        self._settle()
        return self._usage

    @property
    def tokens(self) -> int:
        """Tokens in the window."""
        return self.usage.tokens

    def add(self, routing: TokenRouting) -> None:
        """Take in one token."""
        self._waiting.append(routing)
        if len(self._waiting) > self._size:
            self._settle()

    def layer_entropy(self) -> Floats:
        """Mean router entropy per layer `[L]`."""
        return mean_of_known(self._entropy[: self.tokens], 0)

    def token_entropy(self) -> Floats:
        """Mean over layers of each token in the window, oldest first."""
        tokens = self.tokens
        oldest = self._seen % self._size if tokens == self._size else 0
        with np.errstate(invalid="ignore"):
            means = self._totals[:tokens, 0] / self._known[:tokens, 0]
        return np.roll(means, -oldest)

    def mean_entropy(self) -> float:
        """Mean router entropy over layers and tokens; NaN if none was recorded."""
        return self._mean("entropy")

    def effective(self) -> float:
        """Mean number of effective experts; NaN if no entropy was recorded."""
        return self._mean("effective")

    def churn(self) -> float:
        """Mean churn over layers and tokens; NaN before the second token."""
        return self._mean("churn")

    def _mean(self, name: str) -> float:
        column, tokens = _MEANS.index(name), self.tokens
        known = self._known[:tokens, column].sum()
        return float(self._totals[:tokens, column].sum() / known) if known else nan

    def _settle(self) -> None:
        """Count the tokens that wait, those left out that would have left the window by now."""
        waiting, self._waiting = self._waiting[-self._size :], []
        begin = 0
        for end in range(1, len(waiting) + 1):
            if end == len(waiting) or waiting[end].before is not waiting[end - 1].experts:
                self._take_in(waiting[begin:end])
                begin = end

    def _take_in(self, row: list[TokenRouting]) -> None:
        """Count tokens that follow each other in one context."""
        ids = np.stack([experts_of(routing.experts, self._layers) for routing in row])
        entropy = self._entropy_of(row)
        chosen = Selections(ids, self.experts)
        first = row[0].before
        churn = 1 - overlaps(chosen, None if first is None else experts_of(first, self._layers))
        places = np.arange(self._seen, self._seen + len(row))
        self._replace(places, chosen)
        slots = places % self._size
        self._entropy[slots] = entropy
        for column, values in enumerate((entropy, effective_experts(entropy, self.experts), churn)):
            known = ~np.isnan(values)
            self._known[slots, column] = known.sum(1)
            self._totals[slots, column] = np.where(known, values, 0.0).sum(1)
        self._seen += len(row)

    def _entropy_of(self, row: list[TokenRouting]) -> Floats:
        """Router entropy [N, L] of these tokens."""
        unknown = [None] * self._layers
        values = [unknown if routing.entropy is None else routing.entropy for routing in row]
        return np.array(values, np.float64) * self._unit  # null becomes NaN

    def _replace(self, places: Ints, chosen: Selections) -> None:
        """Count these tokens in place of those that leave the window for them."""
        if self._ids is None:
            self._ids = np.empty((self._size, *chosen.ids.shape[1:]), np.int64)
        leaving = places[places >= self._size] % self._size
        if len(leaving):
            left = Selections(self._ids[leaving], self.experts)
            self._usage.merge(-left.counts(), -left.rows(), -len(leaving))
        self._ids[places % self._size] = chosen.ids
        self._usage.merge(chosen.counts(), chosen.rows(), len(places))


class TokenRate:
    """Tokens per second over the last `RATE_SECONDS` of event time, so that a replay shows what live showed."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=RATE_EVENTS)

    def add(self, t: float) -> None:
        """One token at `t` seconds."""
        self._times.append(t)
        while len(self._times) > 2 and self._times[0] < t - RATE_SECONDS:
            self._times.popleft()

    def value(self) -> float | None:
        """Tokens per second, or None before two tokens at different times."""
        if len(self._times) < 2:
            return None
        span = self._times[-1] - self._times[0]
        return (len(self._times) - 1) / span if span > 0 else None


def experts_of(ids: Ids, layers: int) -> Ints:
    """Expert ids [L, k] of one token, `ABSENT` in layers that were not computed."""
    return (ids if isinstance(ids, np.ndarray) else integers(ids)).reshape(layers, -1)


def mean_of_known(values: Floats, axis: int) -> Floats:
    """Mean over `axis` of what is not NaN; NaN where nothing is known."""
    known = ~np.isnan(values)
    number = known.sum(axis)
    total = np.where(known, values, 0.0).sum(axis)
    with np.errstate(invalid="ignore", divide="ignore"):
        result: Floats = total / number
    return result
