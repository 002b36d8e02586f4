"""What the panels show of the last tokens, in bounded memory."""

from __future__ import annotations

from collections import deque

import numpy as np

from routing.arrays import Floats, Ints
from routing.observe import effective_experts
from routing.usage import UsageWindow

WINDOW_TOKENS = 256
RATE_SECONDS = 2.0
RATE_EVENTS = 4096
"""Bounds what is kept for the rate; a run this fast is measured over less than `RATE_SECONDS`."""


class TokenWindow:
    """Expert usage, router entropy and churn of the last `size` tokens of one phase.

    Shapes: `L` layers, `E` experts, `k` experts per token; NaN where a layer was not computed.
    """

    def __init__(self, layers: int, experts: int, size: int = WINDOW_TOKENS) -> None:
        self.experts = experts
        self.usage = UsageWindow(layers, experts, size)
        self._entropy: Floats = np.full((size, layers), np.nan)
        self._churn: Floats = np.full((size, layers), np.nan)
        self._seen = 0

    @property
    def tokens(self) -> int:
        """Tokens in the window."""
        return self.usage.tokens

    def add(self, experts: Ints, entropy: Floats, churn: Floats | None) -> None:
        """Take in one token: expert ids `[L, k]`, router entropy `[L]`, and churn `[L]` if there was one before."""
        slot = self._seen % len(self._entropy)
        self.usage.add(experts)
        self._entropy[slot] = entropy
        self._churn[slot] = np.nan if churn is None else churn
        self._seen += 1

    def layer_entropy(self) -> Floats:
        """Mean router entropy per layer `[L]`."""
        return mean_of_known(self._entropy[: self.tokens], 0)

    def token_entropy(self) -> Floats:
        """Mean over layers of each token in the window, oldest first."""
        start = self._seen % len(self._entropy) if self.tokens == len(self._entropy) else 0
        ordered = np.roll(self._entropy[: self.tokens], -start, axis=0)
        return mean_of_known(ordered, 1)

    def mean_entropy(self) -> float:
        """Mean router entropy over layers and tokens; NaN if none was recorded."""
        return float(mean_of_known(self._entropy[: self.tokens].ravel(), 0))

    def effective(self) -> float:
        """Mean number of effective experts; NaN if no entropy was recorded."""
        return float(mean_of_known(effective_experts(self._entropy[: self.tokens], self.experts).ravel(), 0))

    def churn(self) -> float:
        """Mean churn over layers and tokens; NaN before the second token."""
        return float(mean_of_known(self._churn[: self.tokens].ravel(), 0))


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


def mean_of_known(values: Floats, axis: int) -> Floats:
    """Mean over `axis` of what is not NaN; NaN where nothing is known."""
    known = ~np.isnan(values)
    number = known.sum(axis)
    total = np.where(known, values, 0.0).sum(axis)
    with np.errstate(invalid="ignore", divide="ignore"):
        result: Floats = total / number
    return result
