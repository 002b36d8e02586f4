"""Predictions of successive tokens: surprisal, and divergence between two models, from logits.

All sums are in float64; logits stay float32, as engines compute them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from moe_watch.backends.engine import Floats, Ints

VALUES = 1 << 22
"""Number of logits that are converted to float64 at once (32 MiB)."""


class Predictions:
    """Predictions of a window's tokens after the first: logits [T − 1, V] and their normalization.

    Args:
        logits: [T − 1, V], float32.
    """

    def __init__(self, logits: Floats) -> None:
        self.logits = logits
        self.log_sum = _log_sums(logits)
        """[T − 1] ln Σ exp of the logits."""

    def surprisal(self, following: Ints) -> Floats:
        """Return −ln p of the token that follows each position [T − 1], in nats."""
        chosen = np.take_along_axis(self.logits, following[:, None], 1)[:, 0]
        return self.log_sum - chosen.astype(np.float64)

    def divergence(self, other: Predictions) -> Floats:
        """Return KL(these ‖ others) of each position [T − 1], in nats."""
        found = np.empty(len(self.logits))
        for at in _blocks(self.logits):
            ours = self.logits[at].astype(np.float64) - self.log_sum[at, None]
            theirs = other.logits[at].astype(np.float64) - other.log_sum[at, None]
            found[at] = np.einsum("tv,tv->t", np.exp(ours), ours - theirs)
        return np.maximum(found, 0.0)


def _log_sums(logits: Floats) -> Floats:
    found = np.empty(len(logits))
    for at in _blocks(logits):
        rows = logits[at].astype(np.float64)
        highest = rows.max(1)
        found[at] = highest + np.log(np.exp(rows - highest[:, None]).sum(1))
    return found


def _blocks(logits: Any) -> Iterator[slice]:
    """Yield slices of rows with at most `VALUES` numbers, and at least one row."""
    rows = max(1, VALUES // max(1, logits.shape[1]))
    for start in range(0, len(logits), rows):
        yield slice(start, start + rows)
