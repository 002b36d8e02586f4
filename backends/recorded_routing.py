"""One token's routing in the words that an engine's tap wrote, taken apart together with that of many others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from backends.engine import Floats, Ints, Routing

HEADER = 4
"""Words at the beginning of what a tap wrote of one layer: its index, T, E, k."""


@dataclass(frozen=True, eq=False)
class RowFormat:
    """What a token's rows hold: one row of 32-bit words per MoE layer, `layer, 1, E, k, scores, weights, experts`."""

    layers: Sequence[int]
    """Model layer indices, ascending."""
    experts: int
    experts_per_token: int
    logits: Callable[[Floats], Floats] | None
    """From scores to logits; None if it is not known what they mean."""
    is_scored: bool
    """Scores are what the model's gate made of logits, not logits themselves."""

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

    def experts_in(self, rows: Ints) -> Ints:
        """[…, k] of rows […, W]."""
        return rows[..., -self.experts_per_token :]

    def scores_in(self, rows: Ints) -> Floats:
        """[…, E] of rows […, W]."""
        return rows[..., HEADER : HEADER + self.experts].view(np.float32)


class RecordedRouting(Routing):
    """A routing whose lists are only made when they are asked for.

    Args:
        words: [L·W], rows of all layers in any order, and no others.
        form: what they hold.
    """

    __slots__ = ("form", "words")

    words: Ints
    form: RowFormat

    def __init__(self, words: Ints, form: RowFormat) -> None:
        object.__setattr__(self, "words", words)
        object.__setattr__(self, "form", form)

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


def rows_of(routings: Sequence[Routing]) -> tuple[Ints, RowFormat] | None:
    """The rows [T, L, W] of routings that were all recorded alike, layer by layer in order; None if they were not."""
    recorded = [routing for routing in routings if isinstance(routing, RecordedRouting)]
    if len(recorded) != len(routings) or not recorded:
        return None
    form = recorded[0].form
    if any(routing.form is not form for routing in recorded):
        return None
    rows = np.concatenate([routing.words for routing in recorded]).reshape(len(recorded), -1, form.width)
    return (rows, form) if (rows[..., :HEADER] == form.header).all() else None
