"""Selections and weight mass of all tokens of a run so far, per layer and expert."""

from __future__ import annotations

import numpy as np

from moe_watch.routing.arrays import ABSENT, Floats, Ints, Selections, integer_rows
from moe_watch.routing.events import Header, Keyframe, Token
from moe_watch.routing.row_layout import RowLayout
from moe_watch.routing.usage.counts import UsageCounts

WAITING_MOST = 256
"""Tokens that wait to be counted: NumPy takes hardly longer for all tokens of a frame than for one token."""


class RunUsage:
    """Counts and weight mass of the observed tokens, prompt included.

    Keyframes hold counts and no weights: after a seek, counts include all tokens of the run, and the weight mass those
    from `weighted_from` on.

    Args:
        header: of the run; None before it.
    """

    def __init__(self, header: Header | None = None) -> None:
        shape = (0, 0) if header is None else (len(header.model.layers), header.model.experts)
        self.usage = UsageCounts(*shape)
        """Selections of the observed tokens."""
        self.weighted_from = 0
        """Index of the first token whose weights are in the mass."""
        self.weighted = 0
        """Tokens whose weights are in the mass."""
        self._mass: Floats = np.zeros(shape)
        self._unit = 1.0 if header is None else header.units.weights
        self._layout = RowLayout([] if header is None else header.model.k_by_layer)
        self._waiting: list[Token] = []

    @property
    def tokens(self) -> int:
        """Number of tokens counted: the rows of the layer with the most."""
        return int(self.usage.rows.max(initial=0))

    @property
    def mass(self) -> Floats | None:
        """Sum of the router weights of each expert `[L, E]`; None before a token with weights."""
        return self._mass if self.weighted else None

    def add(self, token: Token) -> None:
        """Count an observed token; `settle` must be called before anything is read."""
        self._waiting.append(token)
        if len(self._waiting) >= WAITING_MOST:
            self.settle()

    def begin_at(self, keyframe: Keyframe) -> None:
        """Take over the counts of a keyframe; there is no weight mass before it."""
        self.set_counts(keyframe)
        self.weighted_from = keyframe.i

    def set_counts(self, keyframe: Keyframe) -> None:
        """Replace the counts by a keyframe's."""
        shape = len(keyframe.rows_decode), self.usage.counts.shape[1]
        counts = [np.array(each, np.int64).reshape(shape) for each in (keyframe.counts_prefill, keyframe.counts_decode)]
        rows = [np.array(each, np.int64) for each in (keyframe.rows_prefill, keyframe.rows_decode)]
        self.usage = UsageCounts(*shape)
        self.usage.merge(counts[0] + counts[1], rows[0] + rows[1], int((rows[0] + rows[1]).max(initial=0)))

    def settle(self) -> None:
        """Count the tokens that wait."""
        waiting, self._waiting = self._waiting, []
        if not waiting or not self._layout.size:
            return
        chosen = Selections(
            self._layout.table(integer_rows([token.experts for token in waiting])), self.usage.counts.shape[1]
        )
        self.usage.merge(chosen.counts(), chosen.rows(), len(waiting))
        weighed = [at for at, token in enumerate(waiting) if token.weights is not None]
        if weighed:
            self._add_mass(chosen, waiting, weighed)

    def _add_mass(self, chosen: Selections, waiting: list[Token], weighed: list[int]) -> None:
        rows = integer_rows([waiting[at].weights or [] for at in weighed])
        weights = self._layout.table(rows)
        known = chosen.present[weighed] & (weights != ABSENT)
        cells: Ints = chosen.cells[weighed][known]
        sums = np.bincount(cells, weights[known] * self._unit, self._mass.size)
        self._mass += sums.reshape(self._mass.shape)
        self.weighted += len(weighed)
