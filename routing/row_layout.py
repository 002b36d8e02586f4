"""Layout of one token's selections in a flat list, for models whose layers select different numbers of experts.

Shapes: `L` MoE layers, `k_l` experts per token in layer `l`, `K` the largest `k_l`. An event stores a flat list of Σk_l
entries; arrays are tables `[L, K]`, padded with `ABSENT` or NaN in layers that select fewer than `K`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from moe_watch.routing.arrays import ABSENT, Flags, Ints, integers
from moe_watch.routing.events import Keyframe, ModelInfo, Token


class RowLayout:
    """Layout of one model.

    Args:
        k: experts per token of each MoE layer.
    """

    def __init__(self, k: Sequence[int]) -> None:
        self.k: Ints = np.array(k, np.int64)
        """[L]"""
        self.layers = len(k)
        self.width = max(k, default=1)
        """K; 1 in a model without MoE layers."""
        self.size = sum(k)
        """Length of a flat list: Σk_l."""
        self.is_even = self.size == self.layers * self.width
        """True if all layers select the same number of experts."""
        self.filled: Flags = np.arange(self.width) < self.k[:, None]
        """[L, K] True for entries of a table that are not padding."""

    @classmethod
    def of(cls, model: ModelInfo) -> RowLayout:
        """Return the layout of a model."""
        return cls(model.k_by_layer)

    def table(self, rows: npt.NDArray[Any], missing: float = ABSENT) -> npt.NDArray[Any]:
        """Return flat lists `[…, Σk_l]` as tables `[…, L, K]`, padded with `missing`.

        Raises:
            ValueError: the lists have another length.
        """
        if self.is_even:
            return rows.reshape(*rows.shape[:-1], self.layers, self.width)
        found = np.full((*rows.shape[:-1], self.layers, self.width), missing, rows.dtype)
        found[..., self.filled] = rows
        return found

    def flat(self, tables: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return tables `[…, L, K]` as flat lists `[…, Σk_l]`."""
        if self.is_even:
            return tables.reshape(*tables.shape[:-2], self.size)
        return tables[..., self.filled]

    def experts(self, token: Token) -> Ints:
        """Return one token's expert ids `[L, K]`, `ABSENT` in layers that were not computed.

        Raises:
            ValueError: the token has another number of ids.
        """
        return self.table(integers(token.experts))

    def experts_before(self, frame: Keyframe) -> Ints | None:
        """Return the expert ids `[L, K]` of the token before a keyframe; None if none was observed."""
        if all(row is None for row in frame.last_experts):
            return None
        found = np.full((self.layers, self.width), ABSENT, np.int64)
        for at, row in enumerate(frame.last_experts):
            if row is not None:
                found[at, : len(row)] = row
        return found


def keyframe_experts(experts: Ints) -> list[list[int] | None]:
    """Return expert ids `[L, K]` as a keyframe stores them: one list per layer, null where nothing was computed."""
    return [[each for each in row if each != ABSENT] or None for row in experts.tolist()]
