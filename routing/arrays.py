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
"""Stands for `null` in integer arrays: expert ids, weights, entropies and margins are never negative."""


def integers(values: Sequence[int | None]) -> Ints:
    """A list from an event as int64, `ABSENT` for null."""
    try:
        return np.array(values, np.int64)
    except TypeError:
        return np.array([ABSENT if value is None else value for value in values], np.int64)


def integer_rows(rows: Sequence[Sequence[int | None]]) -> Ints:
    """Lists of one length as int64 `[N, length]`, `ABSENT` for null."""
    try:
        return np.array(rows, np.int64)
    except TypeError:
        return np.stack([integers(row) for row in rows])


class Selections:
    """Which experts tokens in a row selected, and where those stand in a table `[L, E]`.

    Args:
        ids: expert ids `[N, L, k]`; of one token in one layer all are `ABSENT`, or they are different experts, followed
            by `ABSENT` in a layer that selects fewer than k.
        experts: E.
    """

    def __init__(self, ids: Ints, experts: int) -> None:
        self.ids = ids
        self.experts = experts
        self.computed: Flags = ids[:, :, 0] != ABSENT
        """[N, L]"""
        self.whole = bool((ids[:, :, -1] != ABSENT).all())
        """Every layer of every token was computed, and selects k experts."""
        offsets = np.arange(0, ids.shape[1] * experts, experts)[:, None]
        self.cells: Ints = (ids if self.whole else np.maximum(ids, 0)) + offsets
        """[N, L, k] places in the flattened table; that of expert 0 where there is no id."""

    @property
    def there(self) -> Flags:
        """Entries `[N, L, k]` that are ids."""
        found: Flags = self.ids != ABSENT
        return found

    def numbers(self) -> Ints | int:
        """How many experts each token selected in each layer `[N, L]`, at least 1; one number if it is always k."""
        if self.whole:
            return int(self.ids.shape[2])
        found: Ints = np.maximum(self.there.sum(-1), 1)
        return found

    def counts(self) -> Ints:
        """How often each expert was selected `[L, E]`."""
        layers = self.ids.shape[1]
        cells = self.cells if self.whole else self.cells[self.there]
        found = np.bincount(cells.ravel(), minlength=layers * self.experts)
        return found.astype(np.int64, copy=False).reshape(layers, self.experts)

    def rows(self) -> Ints:
        """How many tokens each layer was computed for `[L]`."""
        found: Ints = self.computed.sum(0, dtype=np.int64)
        return found


def token_layer_values(values: Sequence[int | None] | None, layers: int) -> Floats:
    """One value per layer `[L]`, in the integers' own units; NaN where there is none."""
    if values is None:
        return np.full(layers, np.nan)
    return np.array(values, np.float64)  # null becomes NaN


def packed(values: Floats) -> bytes:
    """A table `[L, E]` as events hold it."""
    return values.astype("<f8").tobytes()


def unpacked(table: Table) -> Floats:
    """The numbers of an event's table in a row `[L·E]`, in an array of their own."""
    if isinstance(table, bytes):
        return np.frombuffer(table, "<f8").astype(np.float64)
    return np.array(table, np.float64).ravel()


def nullable(row: AnyInts) -> list[int | None]:
    """An integer array as a flat event list, null for `ABSENT`."""
    return [None if value == ABSENT else value for value in row.ravel().tolist()]
