"""Predictions of the tokens of a window, added batch by batch.

A batch's logits are read once, and copied on request only: of 512 tokens and a vocabulary of 150,000 they are 300 MB.
"""

from __future__ import annotations

import numpy as np

from moe_watch.backends.engine import Floats, Ints
from moe_watch.backends.scoring.predictions import Predictions


class WindowPredictions:
    """Surprisal of the tokens of a window after the first, and divergence from a reference.

    Args:
        ids: [T] tokens of the window.
        reference: predictions of the same tokens by another model; None if there is nothing to compare with.
        keeps: keep the logits, as a reference for others.
    """

    def __init__(self, ids: Ints, *, reference: Predictions | None = None, keeps: bool = False) -> None:
        self._following = ids[1:]
        self._reference = reference
        self._keeps = keeps
        self._added = 0
        self.surprisal = np.empty(len(self._following))
        """[T − 1], nats."""
        self.divergence = np.empty(0 if reference is None else len(self._following))
        """[T − 1] KL(reference ‖ these), nats; empty without a reference."""
        self.kept: Predictions | None = None
        """[T − 1] predictions, once all batches are added."""

    def add(self, logits: Floats) -> None:
        """Add the logits [t, V] of the next tokens; what follows the last token of the window is not known."""
        rows = logits[: len(self._following) - self._added]
        start, stop = self._added, self._added + len(rows)
        predicted = Predictions(rows)
        self.surprisal[start:stop] = predicted.surprisal(self._following[start:stop])
        if self._reference is not None:
            self.divergence[start:stop] = self._reference.part(start, stop).divergence(predicted)
        if self._keeps:
            self._keep(predicted, start, stop)
        self._added = stop

    def _keep(self, predicted: Predictions, start: int, stop: int) -> None:
        """Copy the predictions: the engine overwrites its logits with the next batch."""
        if self.kept is None:
            tokens = len(self._following)
            self.kept = Predictions(np.empty((tokens, predicted.logits.shape[1]), np.float32), np.empty(tokens))
        self.kept.logits[start:stop] = predicted.logits
        self.kept.log_sum[start:stop] = predicted.log_sum
