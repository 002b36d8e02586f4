"""Routing in the form of an engine's tap, which reads scores: logits are computed from them on access only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from moe_watch.backends.engine import Floats, Ints, RouterOutputs
from moe_watch.routing.router.observe import Observation

HEADER = 4
"""Number of 32-bit words at the start of a layer's record: layer index, T, E, k."""

ObserveRows = Callable[[Ints], Observation | None]
"""Function from rows [T, L, W] to an observation; None if the rows are out of order, or need the NumPy path."""


@dataclass(frozen=True, eq=False)
class RowFormat:
    """Layout of a token's rows: one row of 32-bit words per MoE layer, `layer, 1, E, k, scores, weights, experts`.

    If layers select different numbers of experts, rows differ in width and are parsed one by one.
    """

    layers: Sequence[int]
    """Model layer indices, ascending."""
    experts: int
    experts_per_token: int
    """The largest k of all layers."""
    logits: Callable[[Floats], Floats] | None
    """Function from scores to logits; None if the gate is not known."""
    is_scored: bool
    """Scores are the output of the model's gate, not logits."""
    observe: ObserveRows | None = None
    """Compiled function for the observation; None if there is none."""
    is_even: bool = True
    """All layers select the same number of experts, so that all rows have the same width."""

    @cached_property
    def width(self) -> int:
        """Number of words in a row."""
        return HEADER + self.experts + 2 * self.experts_per_token

    @cached_property
    def size(self) -> int:
        """Number of words of a token, if all layers were computed."""
        return len(self.layers) * self.width

    @cached_property
    def header(self) -> Ints:
        """Expected header of each row, [L, 4]."""
        shape = (1, self.experts, self.experts_per_token)
        return np.array([[layer, *shape] for layer in self.layers], np.int32)

    def is_in_order(self, rows: Ints) -> bool:
        """Return whether rows [T, L, W] have the expected headers, layer by layer."""
        return bool((rows[..., :HEADER] == self.header).all())

    def experts_in(self, rows: Ints) -> Ints:
        """Return the selected ids […, k] of rows […, W]."""
        return rows[..., -self.experts_per_token :]

    def scores_in(self, rows: Ints) -> Floats:
        """Return the scores […, E] of rows […, W]."""
        return rows[..., HEADER : HEADER + self.experts].view(np.float32)


class ScoredRouting(RouterOutputs):
    """Routing of several tokens, with scores from which logits are computed.

    Args:
        tokens: T.
        experts: per MoE layer [T, k].
        scores: per MoE layer [T, E], the output of the model's gate; NaN where `experts` are −1.
        to_logits: function from scores to logits.
        weights: as for the base class.
    """

    __slots__ = ("scores", "to_logits")

    scores: list[Floats | None]
    to_logits: Callable[[Floats], Floats]

    def __init__(
        self,
        tokens: int,
        experts: list[Ints | None],
        scores: list[Floats | None],
        to_logits: Callable[[Floats], Floats],
        weights: Sequence[Floats | None] = (),
    ) -> None:
        read = {"tokens": tokens, "experts": experts, "weights": list(weights), "scores": scores}
        for name, value in (read | {"to_logits": to_logits}).items():
            object.__setattr__(self, name, value)

    @property
    def logits(self) -> list[Floats | None]:
        return [None if rows is None else self.to_logits(rows) for rows in self.scores]

    def cut(self, start: int, stop: int) -> ScoredRouting:
        """Return the routing of the tokens from `start` up to `stop`."""
        experts = [None if rows is None else rows[start:stop] for rows in self.experts]
        scores = [None if rows is None else rows[start:stop] for rows in self.scores]
        weights = [None if rows is None else rows[start:stop] for rows in self.weights]
        return ScoredRouting(min(stop, self.tokens) - start, experts, scores, self.to_logits, weights)


class RecordedRouting(RouterOutputs):
    """Routing of one token as words in the tap's buffer, parsed together with the words of many other tokens.

    Args:
        buffer: words of this and other tokens.
        form: layout of the words.
        start: index of this token's first word; its [L·W] words are the rows of all layers, in any order.
    """

    __slots__ = ("buffer", "form", "start")

    buffer: Ints
    form: RowFormat
    start: int

    def __init__(self, buffer: Ints, form: RowFormat, start: int = 0) -> None:
        object.__setattr__(self, "buffer", buffer)
        object.__setattr__(self, "form", form)
        object.__setattr__(self, "start", start)

    @property
    def words(self) -> Ints:
        """Words of this token, [L·W]."""
        return self.buffer[self.start : self.start + self.form.size]

    def is_followed_by(self, other: RecordedRouting) -> bool:
        """Return whether the words of the other token directly follow this token's words."""
        return other.buffer is self.buffer and other.start == self.start + self.form.size

    @property
    def tokens(self) -> int:
        return 1

    @property
    def experts(self) -> list[Ints | None]:
        return list(self.form.experts_in(self._rows)[:, None])

    @property
    def logits(self) -> list[Floats | None]:
        if self.form.logits is None:
            return [None] * len(self.form.layers)
        return [self.form.logits(scores) for scores in self.form.scores_in(self._rows)[:, None]]

    @property
    def weights(self) -> list[Floats | None]:
        return []

    @property
    def _rows(self) -> Any:
        """Rows [L, W] in the order of the layers."""
        rows = self.words.reshape(-1, self.form.width)
        return rows[rows[:, 0].argsort()]


def rows_of(routings: Sequence[RouterOutputs]) -> tuple[Ints, RowFormat] | None:
    """Return the rows [T, L, W] of routings that share one format, without reordering; None if they do not."""
    recorded = [routing for routing in routings if isinstance(routing, RecordedRouting)]
    if len(recorded) != len(routings) or not recorded:
        return None
    form = recorded[0].form
    if any(routing.form is not form for routing in recorded):
        return None
    return _words(recorded).reshape(len(recorded), -1, form.width), form


def _words(recorded: Sequence[RecordedRouting]) -> Ints:
    """Return the words of all tokens [T·L·W], as a view if they are contiguous in one buffer."""
    first = recorded[0]
    if all(before.is_followed_by(after) for before, after in pairwise(recorded)):
        return first.buffer[first.start : first.start + len(recorded) * first.form.size]
    return np.concatenate([routing.words for routing in recorded])
