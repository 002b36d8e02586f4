"""Token events as NumPy arrays: shapes `[L, k]` and `[L]`, with -1 and NaN where nothing was computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from routing.events import Table, Token

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
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


def token_experts(token: Token, layers: int, experts_per_token: int) -> Ints:
    """Expert ids `[L, k]` of one token, `ABSENT` in layers that were not computed."""
    return integers(token.experts).reshape(layers, experts_per_token)


def token_layer_values(values: Sequence[int | None] | None, layers: int) -> Floats:
    """One value per layer `[L]`, in the integers' own units; NaN where there is none."""
    if values is None:
        return np.full(layers, np.nan)
    row = integers(values).astype(np.float64)
    row[row == ABSENT] = np.nan
    return row


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
