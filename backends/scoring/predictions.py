"""Predictions of successive tokens: surprisal, and divergence between two models, from logits.

All sums are in float64; logits stay float32, as engines compute them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from moe_watch.backends.engine import Floats, Ints

VALUES = 1 << 17
"""Number of logits that are converted to float64 at once: 1 MiB, which fits into a cache of the processor."""


class Predictions:
    """Predictions of what follows each of `T` tokens.

    Args:
        logits: [T, V], float32; may be a view.
        log_sum: [T], ln Σ exp of the logits; computed if absent.
    """

    def __init__(self, logits: Floats, log_sum: Floats | None = None) -> None:
        self.logits = logits
        self.log_sum = _log_sums(logits) if log_sum is None else log_sum

    def __len__(self) -> int:
        """Return T."""
        return len(self.logits)

    def part(self, start: int, stop: int) -> Predictions:
        """Return the predictions after the tokens from `start` up to `stop`."""
        return Predictions(self.logits[start:stop], self.log_sum[start:stop])

    def surprisal(self, following: Ints) -> Floats:
        """Return −ln p of the token that follows each position [T], in nats."""
        chosen = self.logits[np.arange(len(self)), following]
        return self.log_sum - chosen.astype(np.float64)

    def divergence(self, other: Predictions) -> Floats:
        """Return KL(these ‖ others) after each position [T], in nats."""
        found = np.empty(len(self))
        for at in _blocks(self.logits):
            ours, theirs = self._log_probabilities(at), other._log_probabilities(at)
            with np.errstate(invalid="ignore"):
                ratio = np.subtract(ours, theirs, out=theirs)
                shares = np.exp(ours, out=ours)
                found[at] = np.einsum("tv,tv->t", shares, ratio)
                if not np.isfinite(found[at]).all():  # 0 · ln(0 / q) is 0
                    found[at] = np.where(shares == 0.0, 0.0, shares * ratio).sum(1)
        return np.maximum(found, 0.0)

    def _log_probabilities(self, at: slice) -> Floats:
        return np.subtract(self.logits[at], self.log_sum[at, None], dtype=np.float64)


def _log_sums(logits: Floats) -> Floats:
    found = np.empty(len(logits))
    for at in _blocks(logits):
        highest = logits[at].max(1).astype(np.float64)
        shifted = np.subtract(logits[at], highest[:, None], dtype=np.float64)
        found[at] = highest + np.log(np.exp(shifted, out=shifted).sum(1))
    return found


def _blocks(logits: Floats) -> Iterator[slice]:
    """Yield slices of rows with at most `VALUES` numbers, and at least one row."""
    rows = max(1, VALUES // max(1, logits.shape[1]))
    for start in range(0, len(logits), rows):
        yield slice(start, start + rows)
