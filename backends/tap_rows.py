"""Routing as an engine's tap saw it, which shows scores: logits are only made of them when somebody asks."""

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
"""Words at the beginning of what a tap wrote of one layer: its index, T, E, k."""

ObserveRows = Callable[[Ints], Observation | None]
"""From rows [T, L, W] to what is recorded; None if they are not in order, or something in them is left to others."""


@dataclass(frozen=True, eq=False)
class RowFormat:
    """What a token's rows hold: one row of 32-bit words per MoE layer, `layer, 1, E, k, scores, weights, experts`.

    Where layers select different numbers of experts, rows differ in width, and are taken apart one by one.
    """

    layers: Sequence[int]
    """Model layer indices, ascending."""
    experts: int
    experts_per_token: int
    """The largest number of a layer."""
    logits: Callable[[Floats], Floats] | None
    """From scores to logits; None if it is not known what they mean."""
    is_scored: bool
    """Scores are what the model's gate made of logits, not logits themselves."""
    observe: ObserveRows | None = None
    """A faster way to what is recorded; None if there is none."""
    is_even: bool = True
    """All layers select the same number of experts, so that all rows have the same width."""

    @cached_property
    def width(self) -> int:
        """Words in a row."""
        return HEADER + self.experts + 2 * self.experts_per_token

    @cached_property
    def size(self) -> int:
        """Words of a token, if all layers were computed."""
        return len(self.layers) * self.width

    @cached_property
    def header(self) -> Ints:
        """[L, 4]: how the rows must begin."""
        shape = (1, self.experts, self.experts_per_token)
        return np.array([[layer, *shape] for layer in self.layers], np.int32)

    def is_in_order(self, rows: Ints) -> bool:
        """Rows [T, L, W] begin as they must, layer by layer."""
        return bool((rows[..., :HEADER] == self.header).all())

    def experts_in(self, rows: Ints) -> Ints:
        """[…, k] of rows […, W]."""
        return rows[..., -self.experts_per_token :]

    def scores_in(self, rows: Ints) -> Floats:
        """[…, E] of rows […, W]."""
        return rows[..., HEADER : HEADER + self.experts].view(np.float32)


class ScoredRouting(RouterOutputs):
    """Rows of several tokens.

    Args:
        tokens: T.
        experts: per MoE layer [T, k].
        scores: per MoE layer [T, E], NaN where `experts` are −1: what the model's gate made of logits.
        to_logits: from scores to logits.
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
    ) -> None:
        given = {"tokens": tokens, "experts": experts, "weights": [], "scores": scores, "to_logits": to_logits}
        for name, value in given.items():
            object.__setattr__(self, name, value)

    @property
    def logits(self) -> list[Floats | None]:
        return [None if rows is None else self.to_logits(rows) for rows in self.scores]

    def cut(self, start: int, stop: int) -> ScoredRouting:
        """Of some of its tokens only."""
        experts = [None if rows is None else rows[start:stop] for rows in self.experts]
        scores = [None if rows is None else rows[start:stop] for rows in self.scores]
        return ScoredRouting(min(stop, self.tokens) - start, experts, scores, self.to_logits)


class RecordedRouting(RouterOutputs):
    """One token's, in the words that the tap wrote, taken apart together with those of many others.

    Args:
        buffer: words, those of other tokens among them.
        form: what they hold.
        start: where this token's begin: [L·W], rows of all layers in any order, and no others.
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
        """This token's own [L·W]."""
        return self.buffer[self.start : self.start + self.form.size]

    def is_followed_by(self, other: RecordedRouting) -> bool:
        """The other one's words come right after this one's."""
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
        """[L, W] in the order of the layers."""
        rows = self.words.reshape(-1, self.form.width)
        return rows[rows[:, 0].argsort()]


def rows_of(routings: Sequence[RouterOutputs]) -> tuple[Ints, RowFormat] | None:
    """The rows [T, L, W] of routings that were all recorded alike, as they are; None if they were not."""
    recorded = [routing for routing in routings if isinstance(routing, RecordedRouting)]
    if len(recorded) != len(routings) or not recorded:
        return None
    form = recorded[0].form
    if any(routing.form is not form for routing in recorded):
        return None
    return _words(recorded).reshape(len(recorded), -1, form.width), form


def _words(recorded: Sequence[RecordedRouting]) -> Ints:
    """Those of all of them [T·L·W], where they are if they lie one behind the other."""
    first = recorded[0]
    if all(before.is_followed_by(after) for before, after in pairwise(recorded)):
        return first.buffer[first.start : first.start + len(recorded) * first.form.size]
    return np.concatenate([routing.words for routing in recorded])
