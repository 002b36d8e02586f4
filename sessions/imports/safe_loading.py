"""Loading of bytes, arrays and tensors from untrusted files. Nothing in them is ever executed."""

from __future__ import annotations

import io
import os
import re
import stat
import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np
import numpy.typing as npt

from moe_watch.routing.errors import UserError, system_error
from moe_watch.sessions.reading.multipart import shown

MAX_BYTES = 4 * 1024**3
"""Size limit of a file, and of an array in one: all of it is held in memory."""
NUMPY = b"\x93NUMPY"
ZIP = b"PK\x03\x04"
BROKEN_ZIP = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    OSError,
    ValueError,
    EOFError,
    RuntimeError,
    LookupError,
    OverflowError,
    MemoryError,
)
"""Errors that `zipfile` raises for a damaged file."""
SAFE_PT = "numpy.savez('dump.npz', logical_count=torch.load('dump.pt', weights_only=True)['logical_count'].cpu())"
"""Command that converts the counts in a PyTorch file, where PyTorch is installed."""
SAFE_TORCH = (2, 6)
"""First PyTorch version in which `weights_only` keeps a file from running code (CVE-2025-32434)."""
NAME_IN_PICKLE_ZIP = "data.pkl"
SAFETENSORS_TYPES = {
    "U8": "<u1", "I8": "<i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8", "I64": "<i8",
    "F32": "<f4", "F64": "<f8",
}  # fmt: skip

Array = npt.NDArray[Any]


class _TensorEntry(msgspec.Struct):
    """One entry of a safetensors header."""

    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


def read_bytes(path: Path, limit: int = MAX_BYTES) -> bytes:
    """Read a file's content.

    Raises:
        UserError: it cannot be read, is not a regular file, or is too large.
    """
    content = read_start(path, limit + 1)
    if len(content) > limit:
        raise UserError(f"{path}: larger than {limit >> 20:,} MB", advice="import it in parts")
    return content


def read_start(path: Path, length: int = 64) -> bytes:
    """Read a file's first bytes. FIFOs and devices, which may have no end or no writer, are not read.

    Raises:
        UserError: it cannot be read, or is not a regular file.
    """
    try:
        # A FIFO without a writer would block, and a terminal would become the process's controlling terminal.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            _require_regular(path, os.fstat(descriptor).st_mode)
            with open(descriptor, "rb", closefd=False) as file:
                return file.read(length)
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        raise system_error(path, error, advice="name another file") from error


def _require_regular(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise UserError(f"{path}: a folder", advice="name a file in it")
    if not stat.S_ISREG(mode):
        raise UserError(f"{path}: not a regular file", advice="save its content to a file first")


def read_npz(content: bytes, where: str) -> dict[str, Array]:
    """Read the arrays of an `.npz` file, by name.

    Raises:
        UserError: it holds anything but arrays of numbers, or unpacks to more than `MAX_BYTES`.
    """
    found: dict[str, Array] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(member.file_size for member in archive.infolist()) > MAX_BYTES:
                raise UserError(f"{where}: unpacks to more than {MAX_BYTES >> 20:,} MB", advice="import it in parts")
            for name in archive.namelist():
                if name.endswith(".npy"):
                    found[name.removesuffix(".npy")] = read_npy(archive.read(name), f"{where}, {shown(name[:60])}")
    except BROKEN_ZIP as error:
        raise UserError(f"{where}: damaged .npz file ({error})", advice="write it again") from error
    return found


def read_npy(content: bytes, where: str) -> Array:
    """Read the array of an `.npy` file; an array of Python objects is refused.

    Raises:
        UserError: it is not an array of numbers.
    """
    file: IO[bytes] = io.BytesIO(content)
    try:
        found = np.lib.format.read_array(file, allow_pickle=False)
    except Exception as error:  # NumPy parses the header as Python: tokens, syntax, types and sizes may all be wrong
        reason = " ".join(str(error).split())
        raise UserError(f"{where}: not an array of numbers ({reason})", advice="write it with numpy.save") from error
    return numbers(found, where)


def read_safetensors(content: bytes, where: str) -> dict[str, Array]:
    """Read the tensors of a safetensors file, by name.

    Raises:
        UserError: it is damaged, or holds other types than integers, float32 and float64.
    """
    length = int.from_bytes(content[:8], "little")
    data = memoryview(content)[8 + length :]
    try:
        header = msgspec.json.decode(content[8 : 8 + length], type=dict[str, dict[str, object]])
        header.pop("__metadata__", None)
        entries = msgspec.convert(header, dict[str, _TensorEntry])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{where}: damaged safetensors header ({error})", advice="write it again") from error
    return {name: _tensor(entry, data, f"{where}, {shown(name[:60])}") for name, entry in entries.items()}


def _tensor(entry: _TensorEntry, data: memoryview, where: str) -> Array:
    kind = SAFETENSORS_TYPES.get(entry.dtype)
    if kind is None:
        raise UserError(
            f"{where}: {shown(entry.dtype[:24])} instead of numbers", advice="see docs/data.md for the formats"
        )
    first, last = entry.data_offsets
    try:
        if not 0 <= first <= last <= len(data):
            raise ValueError(f"bytes {first} to {last} of {len(data)}")
        return np.frombuffer(data[first:last], kind).reshape(entry.shape)
    except (ValueError, OverflowError) as error:
        raise UserError(f"{where}: damaged ({error})", advice="write it again") from error


def is_pytorch(content: bytes) -> bool:
    """Return whether a zip archive is a PyTorch file: it holds a pickle."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return any(name.endswith(NAME_IN_PICKLE_ZIP) for name in archive.namelist())
    except BROKEN_ZIP:
        return False


def read_pt(path: Path) -> object:
    """Read a PyTorch file, tensors as arrays. It is loaded with `weights_only`: otherwise such a file can run code.

    Raises:
        UserError: PyTorch is not installed or too old, or the file holds more than tensors and plain values.
    """
    try:
        import torch
    except ImportError as error:
        advice = f'where PyTorch is installed, run: python -c "import numpy, torch; {SAFE_PT}"'
        raise UserError(f"{path}: a PyTorch file, but PyTorch is not installed", advice=advice) from error
    _require_safe_torch(path, str(torch.__version__))
    try:
        return _plain(torch.load(path, map_location="cpu", weights_only=True))
    except UserError:
        raise
    except Exception as error:  # PyTorch raises errors of any type; with any of them the file is unusable
        what = f"{path}: PyTorch cannot load it safely: it is cut off, or holds more than tensors and plain values"
        raise UserError(what, advice="save the tensors alone") from error


def _require_safe_torch(path: Path, version: str) -> None:
    """Refuse a PyTorch in which `weights_only` can be circumvented.

    Raises:
        UserError: it is too old, or its version cannot be read.
    """
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is None or (int(found[1]), int(found[2])) < SAFE_TORCH:
        least = ".".join(map(str, SAFE_TORCH))
        what = f"{path}: a PyTorch file, and PyTorch {version} may run code that is hidden in one"
        raise UserError(what, advice=f"install PyTorch {least} or newer")


def _plain(value: object) -> object:
    """Return tensors as arrays, also in lists and dictionaries."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value.numpy() if hasattr(value, "numpy") else value


def numbers(found: Array, where: str) -> Array:
    """Return the array if it holds numbers.

    Raises:
        UserError: it holds other values.
    """
    if found.dtype.kind not in "iuf":
        raise UserError(f"{where}: {found.dtype} instead of numbers", advice="see docs/data.md for the formats")
    return found
