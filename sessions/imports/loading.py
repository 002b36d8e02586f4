"""Arrays and JSON out of files that came from anywhere. Nothing in them is ever executed."""

from __future__ import annotations

import base64
import binascii
import io
import json
import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from routing.errors import UserError

MAX_BYTES = 4 * 1024**3
"""Of a file, and of an array in one: all of it is held in memory."""
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
"""What `zipfile` raises over a damaged file."""
SAFE_PT = "numpy.savez('dump.npz', logical_count=torch.load('dump.pt', weights_only=True)['logical_count'].cpu())"
"""How to get the counts out of a file of PyTorch where there is PyTorch."""

Array = npt.NDArray[Any]


def read_bytes(path: Path, limit: int = MAX_BYTES) -> bytes:
    """A file's content.

    Raises:
        UserError: it cannot be read, or is too large.
    """
    content = read_start(path, limit + 1)
    if len(content) > limit:
        raise UserError(f"{path}: larger than {limit >> 20:,} MB", advice="import it in parts")
    return content


def read_start(path: Path, length: int = 64) -> bytes:
    """A file's first bytes.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(length)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {getattr(error, 'strerror', None) or error}", advice="name another file") from error


def read_json(content: bytes, where: str) -> Any:
    """JSON.

    Raises:
        UserError: it is none.
    """
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON: {error}", advice="see docs/data.md for the formats") from error


def read_npz(content: bytes, where: str) -> dict[str, Array]:
    """The arrays of an `.npz` file by name.

    Raises:
        UserError: it holds something else, or more than fits.
    """
    found: dict[str, Array] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(member.file_size for member in archive.infolist()) > MAX_BYTES:
                raise UserError(f"{where}: unpacks to more than {MAX_BYTES >> 20:,} MB", advice="import it in parts")
            for name in archive.namelist():
                if name.endswith(".npy"):
                    found[name.removesuffix(".npy")] = read_npy(archive.read(name), f"{where}, {name}")
    except BROKEN_ZIP as error:
        raise UserError(f"{where}: no whole .npz file ({error})", advice="write it again") from error
    return found


def read_npy(content: bytes, where: str) -> Array:
    """The array of an `.npy` file; one of Python objects is refused.

    Raises:
        UserError: it is no array of numbers.
    """
    file: IO[bytes] = io.BytesIO(content)
    try:
        found = np.lib.format.read_array(file, allow_pickle=False)
    except Exception as error:  # a damaged header is parsed as Python: tokens, syntax, types and sizes may all be wrong
        raise UserError(f"{where}: no array of numbers ({error})", advice="write it with numpy.save") from error
    return numbers(found, where)


def read_pt(path: Path) -> Any:
    """What a file of PyTorch holds, tensors as arrays. Loaded with `weights_only`: such files are programs otherwise.

    Raises:
        UserError: PyTorch is missing, or the file holds more than tensors and plain values.
    """
    try:
        import torch
    except ImportError as error:
        advice = f'where it is, run: python -c "import numpy, torch; {SAFE_PT}"'
        raise UserError(f"{path}: a file of PyTorch, which is not installed", advice=advice) from error
    try:
        return _plain(torch.load(path, map_location="cpu", weights_only=True))
    except UserError:
        raise
    except Exception as error:  # PyTorch names no errors of its own; whatever is wrong, the file cannot be used
        what = f"{path}: PyTorch does not load it safely: it is cut off, or holds more than tensors and plain values"
        raise UserError(what, advice="save the tensors alone") from error


def _plain(value: Any) -> Any:
    """Tensors as arrays, in lists and dictionaries."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value.numpy() if hasattr(value, "numpy") else value


def array_of(value: Any, where: str) -> Array:
    """An array out of JSON: nested lists, `.npy` in base64, or `{"data": base64, "shape", "dtype"}`.

    Raises:
        UserError: it is none of these.
    """
    if isinstance(value, np.ndarray):
        return numbers(value, where)
    if isinstance(value, str):
        return read_npy(_base64(value, where), where)
    if isinstance(value, dict):
        return _described(value, where)
    try:
        return numbers(np.array(value), where)
    except (ValueError, OverflowError) as error:
        raise UserError(f"{where}: no array of numbers ({error})", advice="rows must be of one length") from error


def raw_array(text: str, dtype: str, row: tuple[int, int], where: str) -> Array:
    """Integers in base64 without a shape, as rows `[T, *row]`.

    Raises:
        UserError: they are no such rows.
    """
    flat = np.frombuffer(_whole(_base64(text, where), np.dtype(dtype), where), dtype)
    if not row[0] * row[1] or flat.size % (row[0] * row[1]):
        what = f"{where}: {flat.size:,} numbers are no rows of {row[0]} layers × {row[1]} experts"
        raise UserError(what, advice="check --layers, --experts-per-token and --dtype")
    return flat.reshape(-1, *row)


def is_npy(text: str) -> bool:
    """Whether base64 holds an `.npy` file."""
    return text.startswith(base64.b64encode(NUMPY)[:8].decode())


def numbers(found: Array, where: str) -> Array:
    """The array, if it is one of numbers.

    Raises:
        UserError: it is not.
    """
    if not np.issubdtype(found.dtype, np.number) or np.issubdtype(found.dtype, np.complexfloating):
        raise UserError(f"{where}: {found.dtype} instead of numbers", advice="see docs/data.md for the formats")
    return found


def _described(value: dict[str, Any], where: str) -> Array:
    data, shape, dtype = value.get("data"), value.get("shape"), value.get("dtype", "int16")
    sizes = shape if isinstance(shape, list) and all(type(each) is int and each >= 0 for each in shape) else None
    if not isinstance(data, str) or sizes is None or dtype not in DTYPES:
        raise UserError(f"{where}: no data, shape and dtype of integers", advice="see docs/data.md for the formats")
    flat = np.frombuffer(_whole(_base64(data, where), np.dtype(dtype), where), dtype)
    try:
        return flat.reshape(sizes)
    except ValueError as error:
        raise UserError(f"{where}: {flat.size:,} numbers are not of shape {sizes}", advice="check its dtype") from error


DTYPES = ("uint8", "int16", "uint16", "int32", "int64")
"""What expert ids are stored as."""


def _whole(data: bytes, dtype: np.dtype[Any], where: str) -> bytes:
    if len(data) % dtype.itemsize:
        raise UserError(f"{where}: {len(data):,} bytes are not whole numbers of {dtype}", advice="check its dtype")
    return data


def _base64(text: str, where: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UserError(f"{where}: not base64 ({error})", advice="give it as the engine returned it") from error
