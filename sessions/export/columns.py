"""Building blocks of a session's tables: columns, and batches of their values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from moe_watch.routing.arrays import Flags, Floats

Kind = Literal["integer", "number", "truth", "text", "label"]
"""A label is one of a few short words."""

Cell = str | float | bool | None
"""One value of a row; None for null. An integer is a float to the type checker."""

Array = npt.NDArray[Any]
Values = Array | list[str] | list[str | None]
"""Values of one column: integers and truth values as masked arrays, numbers with NaN for null, text as a list with
None."""

Batch = Mapping[str, Values]
"""Some rows of a table, column by column."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table."""

    name: str
    kind: Kind
    meaning: str
    """Its definition and unit, in a few words."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table's name and columns, in order."""

    name: str
    row: str
    """Subject of one row."""
    columns: tuple[Column, ...]


def batch_of(table: Table, rows: Sequence[Sequence[Cell]]) -> Batch:
    """Return rows, each with a value or None for every column, as a batch."""
    columns: Iterable[Iterable[Cell]] = zip(*rows, strict=True) if rows else ([] for _ in table.columns)
    return {column.name: _values(column, values) for column, values in zip(table.columns, columns, strict=True)}


def rows_in(batch: Batch) -> int:
    """Return the number of rows of a batch."""
    return len(next(iter(batch.values())))


def masked(values: Array, absent: Flags) -> Array:
    """Return an array with null where `absent` is true."""
    result: Array = np.ma.MaskedArray(values, absent)
    return result


def _values(column: Column, values: Iterable[Cell]) -> Values:
    given = list(values)
    if column.kind == "number":
        return _numbers(cast("list[float | None]", given))
    if column.kind in ("text", "label"):
        return cast("list[str | None]", given)
    dtype: type[np.generic] = np.bool_ if column.kind == "truth" else np.int64
    known = np.array([0 if value is None else value for value in given], dtype)
    return masked(known, np.array([value is None for value in given], np.bool_))


def _numbers(values: list[float | None]) -> Floats:
    return np.array([np.nan if value is None else value for value in values], np.float64)
