"""Writers of table files. Every writer takes a table in batches and holds at most one of them in memory."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import IO, Any, Literal, Protocol, cast

import msgspec
import numpy as np

from moe_watch.backends.optional_packages import install_command
from moe_watch.routing.errors import UserError
from moe_watch.sessions.export.columns import Array, Batch, Cell, Column, Kind, Table, Values

Form = Literal["parquet", "csv", "npz", "json"]
FORMS: tuple[Form, ...] = ("parquet", "csv", "npz", "json")

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""First characters of a cell that a spreadsheet reads as a formula."""
LABEL_CHARACTERS = 24
"""Longest label; `multistep_chunk_complete` is."""


class Writer(Protocol):
    """Writer of one table's file."""

    def write(self, batch: Batch) -> None:
        """Append rows.

        Raises:
            OSError: they cannot be written.
        """

    def close(self) -> None:
        """Complete the file.

        Raises:
            OSError: it cannot be written.
        """


def writer(form: Form, path: Path, table: Table, *, spreadsheet: bool = False) -> Writer:
    """Return a writer for an existing, empty file.

    Args:
        form: format of the file.
        path: the file.
        table: the table to write.
        spreadsheet: in CSV, put an apostrophe before text that a spreadsheet would read as a formula.

    Raises:
        UserError: a library that this format needs is not installed.
        OSError: the file cannot be written.
    """
    if form == "parquet":
        return ParquetWriter(path, table)
    if form == "csv":
        return CsvWriter(path, table, spreadsheet=spreadsheet)
    return NpzWriter(path, table) if form == "npz" else JsonWriter(path, table)


def check_form(form: Form) -> None:
    """Check that a format can be written here, before any work.

    Raises:
        UserError: a library that it needs is not installed.
    """
    if form == "parquet":
        _pyarrow()


def _pyarrow() -> ModuleType:
    try:
        import_module("pyarrow.parquet")
        return import_module("pyarrow")
    except ImportError as error:
        raise UserError(
            "Parquet needs pyarrow, which is not installed",
            advice=f"run `{install_command('export')}`, or use --to csv, json or npz",
        ) from error


class ParquetWriter:
    """Writer of Parquet, one row group per batch."""

    def __init__(self, path: Path, table: Table) -> None:
        arrow = self._arrow = _pyarrow()
        types = {
            "integer": arrow.int64(),
            "number": arrow.float64(),
            "truth": arrow.bool_(),
            "text": arrow.string(),
            "label": arrow.string(),
        }
        self._schema = arrow.schema(
            [arrow.field(each.name, types[each.kind], metadata={"meaning": each.meaning}) for each in table.columns]
        )
        self._file = arrow.parquet.ParquetWriter(path, self._schema, compression="zstd")

    def write(self, batch: Batch) -> None:
        columns = [self._column(batch[field.name], field.type) for field in self._schema]
        self._file.write_table(self._arrow.Table.from_arrays(columns, schema=self._schema))

    def close(self) -> None:
        self._file.close()

    def _column(self, values: Values, kind: object) -> object:
        if isinstance(values, list):
            return self._arrow.array(values, kind)
        absent = np.ma.getmaskarray(values) if isinstance(values, np.ma.MaskedArray) else np.isnan(values)
        return self._arrow.array(np.asarray(np.ma.getdata(values)), kind, mask=absent)


class CsvWriter:
    """Writer of CSV by RFC 4180, UTF-8: text in quotes, null as an empty cell."""

    def __init__(self, path: Path, table: Table, *, spreadsheet: bool) -> None:
        self._table = table
        self._text = _spreadsheet_text if spreadsheet else _quoted
        self._file = path.open("w", encoding="utf-8", newline="")
        self._file.write(",".join(column.name for column in table.columns) + "\n")

    def write(self, batch: Batch) -> None:
        columns = [list(self._cells(batch[column.name], column.kind)) for column in self._table.columns]
        self._file.writelines(",".join(row) + "\n" for row in zip(*columns, strict=True))

    def close(self) -> None:
        self._file.close()

    def _cells(self, values: Values, kind: Kind) -> Iterator[str]:
        write = _CELLS.get(kind, self._text)
        return ("" if value is None else write(value) for value in optional(values))


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _spreadsheet_text(text: str) -> str:
    return _quoted(f"'{text}" if text.startswith(FORMULA) else text)


_CELLS: dict[Kind, Callable[[Any], str]] = {"integer": str, "number": repr, "truth": lambda value: str(value).lower()}


class JsonWriter:
    """Writer of a JSON list of objects, one on each line."""

    def __init__(self, path: Path, table: Table) -> None:
        self._names = [column.name for column in table.columns]
        self._file = path.open("wb")
        self._begun = False

    def write(self, batch: Batch) -> None:
        columns = [optional(batch[name]) for name in self._names]
        for row in zip(*columns, strict=True):
            self._file.write(b",\n" if self._begun else b"[\n")
            self._file.write(msgspec.json.encode(dict(zip(self._names, row, strict=True))))
            self._begun = True

    def close(self) -> None:
        self._file.write(b"\n]\n" if self._begun else b"[]\n")
        self._file.close()


class NpzWriter:
    """Writer of NumPy arrays by column, -1 and NaN for null.

    A `.npy` file begins with the array's length, so values are kept in temporary files until all are known. Text is
    stored as its UTF-8 bytes, and `NAME_end` with the end of each row's text in them.
    """

    def __init__(self, path: Path, table: Table) -> None:
        self._path = path
        self._arrays: dict[str, _GrowingArray] = {}
        for column in table.columns:
            self._add(column)

    def _add(self, column: Column) -> None:
        if column.kind == "text":
            self._arrays[column.name] = _GrowingArray(np.dtype(np.uint8))
            self._arrays[_end(column.name)] = _GrowingArray(np.dtype(np.int64))
        else:
            self._arrays[column.name] = _GrowingArray(_DTYPES[column.kind])

    def write(self, batch: Batch) -> None:
        for name, values in batch.items():
            if _end(name) in self._arrays:
                self._write_text(name, cast("list[str | None]", values))
            else:
                array = self._arrays[name]
                array.append(_filled(values).astype(array.dtype))

    def close(self) -> None:
        try:
            with zipfile.ZipFile(self._path, "w", zipfile.ZIP_DEFLATED) as archive:
                for name, array in self._arrays.items():
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                        array.write_to(member)
        finally:
            for array in self._arrays.values():
                array.close()

    def _write_text(self, name: str, values: list[str | None]) -> None:
        pieces = [(value or "").encode() for value in values]
        start = self._arrays[name].length
        self._arrays[name].append(np.frombuffer(b"".join(pieces), np.uint8))
        self._arrays[_end(name)].append(start + np.cumsum([len(piece) for piece in pieces]))


_DTYPES: dict[Kind, np.dtype[Any]] = {
    "integer": np.dtype(np.int64),
    "number": np.dtype(np.float64),
    "truth": np.dtype(np.int8),
    "label": np.dtype(f"<U{LABEL_CHARACTERS}"),
}


class _GrowingArray:
    """One array of unknown length, in an unnamed temporary file."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype
        self.length = 0
        self._file = tempfile.TemporaryFile(prefix="moe-watch-")  # noqa: SIM115 - closed by `close`

    def append(self, values: Array) -> None:
        self._file.write(np.ascontiguousarray(values, self.dtype).tobytes())
        self.length += len(values)

    def write_to(self, file: IO[bytes]) -> None:
        """Write the array as a `.npy` file."""
        described = {
            "descr": np.lib.format.dtype_to_descr(self.dtype),
            "fortran_order": False,
            "shape": (self.length,),
        }
        np.lib.format.write_array_header_1_0(file, described)
        self._file.seek(0)
        shutil.copyfileobj(self._file, file)

    def close(self) -> None:
        self._file.close()


def optional(values: Values) -> Sequence[Cell]:
    """Return values with None for null."""
    if isinstance(values, list):
        return values
    found: list[Cell] = values.tolist()
    if isinstance(values, np.ma.MaskedArray):
        return found
    return [None if value != value else value for value in found] if np.isnan(values).any() else found


def _filled(values: Values) -> Array:
    if isinstance(values, list):
        return np.array(["" if value is None else value for value in values], f"<U{LABEL_CHARACTERS}")
    if isinstance(values, np.ma.MaskedArray):
        return np.where(np.ma.getmaskarray(values), -1, np.ma.getdata(values).astype(np.int64))
    return values


def _end(name: str) -> str:
    return f"{name}_end"
