"""Reader of safetensors headers, checked against the file's size. No weight is read."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_watch.backends.system import out_of_memory
from moe_watch.backends.system.regular_files import open_regular
from moe_watch.routing.errors import UserError

LONGEST_HEADER = 100_000_000
"""Bytes; the limit of the format."""

BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
"""Size of one element. Unlisted types have the size that the header gives."""

AGAIN = "download or convert the model again"


def unreadable(path: Path, error: OSError) -> UserError:
    """Return the error for a model's file that cannot be read."""
    advice = {FileNotFoundError: AGAIN, PermissionError: "check its permissions"}.get(type(error), "check the path")
    if error.errno == errno.ENOMEM:
        advice = out_of_memory.SMALLER_MODEL
        if out_of_memory.address_space_limit() is not None:
            advice = f"raise the limit on address space (`ulimit -v`), or {advice}"
    return UserError(f"{path} cannot be read ({error.strerror or error})", advice=advice)


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Row of a file's tensor table."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class SafetensorsFile:
    """Header of one file."""

    tensors: list[TensorInfo]
    starts: list[int]
    """Start of each tensor's data, in bytes from the beginning of the file."""
    metadata: object = None
    """`__metadata__` of the header; None if it has none."""


def read_tensors(path: Path) -> list[TensorInfo]:
    """Read the tensor table of one file, checked against the file's size.

    Raises:
        UserError: the file is missing, truncated or not a safetensors file.
    """
    return read_safetensors(path).tensors


def read_safetensors(path: Path) -> SafetensorsFile:
    """Read the header of one file, checked against the file's size.

    Raises:
        UserError: the file is missing, truncated or not a safetensors file.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(8)
            length = int.from_bytes(start, "little")
            _check_length(path, start, length, size)
            header = file.read(length)
    except OSError as error:
        raise unreadable(path, error) from error
    return _tensors(path, _parse(path, header), size, data_start=8 + length)


def _check_length(path: Path, start: bytes, length: int, size: int) -> None:
    if start == b"version ":
        raise UserError(f"{path} is a Git LFS pointer, not the weights", advice="run `git lfs pull` in its folder")
    if len(start) < 8:
        raise UserError(f"{path} is truncated: {size} bytes are too few for a header", advice=AGAIN)
    if length > LONGEST_HEADER or length < 2:
        raise UserError(f"{path} is not a safetensors file: it claims a header of {length:,} bytes", advice=AGAIN)
    if 8 + length > size:
        raise UserError(f"{path} is truncated inside its header: {size:,} of {8 + length:,} bytes", advice=AGAIN)


def _parse(path: Path, header: bytes) -> Mapping[str, object]:
    try:
        table = json.loads(header)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is corrupt: its header is not JSON", advice=AGAIN) from error
    if not isinstance(table, dict):
        raise UserError(f"{path} is corrupt: its header is not a table of tensors", advice=AGAIN)
    return table


def _tensors(path: Path, table: Mapping[str, object], size: int, data_start: int) -> SafetensorsFile:
    data_bytes = size - data_start
    tensors = []
    places = []
    for name, row in table.items():
        if name == "__metadata__":
            continue
        tensor, start, stop = _tensor(path, name, row)
        tensors.append(tensor)
        places.append((start, stop, name))
    end = _check_places(path, places)
    if end > data_bytes:
        raise UserError(f"{path} is truncated: its tensors need {end:,} bytes, it has {data_bytes:,}", advice=AGAIN)
    if end < data_bytes:
        raise UserError(f"{path} is corrupt: {data_bytes - end:,} bytes belong to no tensor", advice=AGAIN)
    return SafetensorsFile(tensors, [data_start + start for start, _, _ in places], table.get("__metadata__"))


def _check_places(path: Path, places: list[tuple[int, int, str]]) -> int:
    """Refuse bytes that belong to two tensors, or to none between two; return the end of the last tensor."""
    end, before = 0, ""
    for start, stop, name in sorted(places):
        if start < end:
            raise UserError(f"{path} is corrupt: tensors {before!r} and {name!r} overlap", advice=AGAIN)
        if start > end:
            raise UserError(
                f"{path} is corrupt: {start - end:,} bytes before {name!r} belong to no tensor", advice=AGAIN
            )
        end, before = stop, name
    return end


def _tensor(path: Path, name: str, row: Any) -> tuple[TensorInfo, int, int]:
    """Return one row of the table, and the start and end of its data."""
    try:
        dtype = str(row["dtype"])
        shape = tuple(int(length) for length in row["shape"])
        start, stop = (int(offset) for offset in row["data_offsets"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{path} is corrupt: bad entry for tensor {name!r}", advice=AGAIN) from error
    tensor = TensorInfo(name, dtype, shape, stop - start)
    needed = tensor.elements * BITS[dtype] // 8 if dtype in BITS else tensor.bytes
    if start < 0 or min(shape, default=0) < 0 or tensor.bytes != needed:
        raise UserError(f"{path} is corrupt: the size of tensor {name!r} does not fit its shape", advice=AGAIN)
    return tensor, start, stop
