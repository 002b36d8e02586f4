"""Token events as NumPy arrays: shapes `[L, k]` and `[L]`, with -1 and NaN where nothing was computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from moe_watch.routing.events import Table

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
AnyFloats = npt.NDArray[np.floating[Any]]
AnyInts = npt.NDArray[np.integer[Any]]

ABSENT = -1
"""Represents `null` in integer arrays: expert ids, weights, entropies and margins are never negative."""


def integers(values: Sequence[int | None]) -> Ints:
    """Return a list from an event as int64 `[length]`, `ABSENT` for null."""
    try:
        return np.array(values, np.int64)
    except TypeError:
        return np.array([ABSENT if value is None else value for value in values], np.int64)


def integer_rows(rows: Sequence[Sequence[int | None]]) -> Ints:
    """Return N lists of equal length as int64 `[N, length]`, `ABSENT` for null."""
    try:
        return np.array(rows, np.int64)
    except TypeError:
        return np.stack([integers(row) for row in rows])


class Selections:
    """Experts that successive tokens selected, with their positions in a table `[L, E]`.

    Args:
        ids: expert ids `[N, L, k]`. The ids of one row are all `ABSENT`, or they are different experts, followed by
            `ABSENT` in a layer that selects fewer than k.
        experts: E.
    """

    def __init__(self, ids: Ints, experts: int) -> None:
        self.ids = ids
        self.experts = experts
        self.computed: Flags = ids[:, :, 0] != ABSENT
        """[N, L] True for rows that the engine computed."""
        self.whole = bool((ids[:, :, -1] != ABSENT).all())
        """True if every layer of every token was computed and selects k experts."""
        offsets = np.arange(ids.shape[1])[:, None] * experts
        self.cells: Ints = (ids if self.whole else np.maximum(ids, 0)) + offsets
        """[N, L, k] positions in the flattened table; the position of expert 0 where there is no id."""

    @property
    def present(self) -> Flags:
        """True for entries `[N, L, k]` that are ids."""
        found: Flags = self.ids != ABSENT
        return found

    def experts_per_row(self) -> Ints | int:
        """Return the number of experts of each row `[N, L]`, at least 1; a single number if it is always k."""
        if self.whole:
            return int(self.ids.shape[2])
        found: Ints = np.maximum(self.present.sum(-1), 1)
        return found

    def counts(self) -> Ints:
        """Return the number of selections of each expert `[L, E]`."""
        layers = self.ids.shape[1]
        cells = self.cells if self.whole else self.cells[self.present]
        found = np.bincount(cells.ravel(), minlength=layers * self.experts)
        return found.astype(np.int64, copy=False).reshape(layers, self.experts)

    def rows(self) -> Ints:
        """Return the number of computed rows of each layer `[L]`."""
        found: Ints = self.computed.sum(0, dtype=np.int64)
        return found


def token_layer_values(values: Sequence[int | None] | None, layers: int) -> Floats:
    """Return one value per layer `[L]`, in units of the integers; NaN where there is none."""
    if values is None:
        return np.full(layers, np.nan)
    return np.array(values, np.float64)  # null becomes NaN


def packed(values: Floats) -> bytes:
    """Return a table `[L, E]` as events store it: 64-bit floats, little-endian, row by row."""
    return values.astype("<f8").tobytes()


def unpacked(table: Table) -> Floats:
    """Return the numbers of an event's table as a new flat array `[L·E]`."""
    if isinstance(table, bytes):
        return np.frombuffer(table, "<f8").astype(np.float64)
    return np.array(table, np.float64).ravel()


def nullable(row: AnyInts) -> list[int | None]:
    """Return an integer array as a flat event list, null for `ABSENT`."""
    return [None if value == ABSENT else value for value in row.ravel().tolist()]
