"""Reader of GGUF headers, checked against the file's size. No weight is read.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import hashlib
import math
import mmap
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from moe_watch.backends.model_files.safetensors import AGAIN, TensorInfo, unreadable
from moe_watch.backends.system.regular_files import open_regular
from moe_watch.routing.errors import UserError

Scalar = str | int | float | bool
"""Value of a metadata entry."""

MAGIC = b"GGUF"
VERSIONS = (2, 3)
"""Versions that llama.cpp reads."""

ALIGNMENT = 32
"""Bytes; the default if the file has no alignment."""

MOST_DIMENSIONS = 4

TENSOR_TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 30: ("BF16", 1, 2), 28: ("F64", 1, 8),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8),
    2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 41: ("Q1_0", 128, 18), 42: ("Q2_0", 64, 18),
    10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 22: ("IQ2_S", 256, 82), 18: ("IQ3_XXS", 256, 98),
    21: ("IQ3_S", 256, 110), 19: ("IQ1_S", 256, 50), 29: ("IQ1_M", 256, 56), 20: ("IQ4_NL", 32, 18),
    23: ("IQ4_XS", 256, 136), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36),
}  # fmt: skip
"""Name, elements per block and bytes per block, by type number."""

SCALARS = {kind: struct.Struct(f"<{code}") for kind, code in zip((*range(8), 10, 11, 12), "BbHhIif?Qqd", strict=True)}
"""Numbers and booleans in metadata, by type number."""
INTEGERS = frozenset({*range(6), 10, 11})
"""Type numbers of the integers among them."""
LONGEST_ARRAY = 2048
"""Number of items; longer arrays are vocabularies."""
MOST_STRINGS = 10_000_000
"""Items of all arrays of strings in one header. The largest published vocabulary has some 300,000."""
LONGEST_HEADER = 256_000_000
"""Bytes. The largest published header has some 20 MB; in a sparse file a length of 300 GB ends inside the file."""
MOST_ENTRIES = 100_000
"""Metadata entries of one file. Published files have less than 100."""
MOST_TENSORS = 1_000_000
"""Tensors of one file. A file with one tensor per expert has some 50,000."""
WINDOW = 1 << 18
"""Bytes in which the starts of strings are found at once."""
LONGEST_SHORT = 255
"""Bytes; longer strings are skipped one by one."""
MANY_STRINGS = 4096
"""Strings of one array from which NumPy is worth its import."""
SKIPPED_SINGLY = 256
"""Strings that are skipped one by one where the next ones are not short, before another window is tried."""
STRING, ARRAY = 8, 9
COUNT, NUMBER = SCALARS[10], SCALARS[4]

PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


@dataclass(frozen=True, slots=True)
class GgufLayout:
    """Places of the parts of a file, in bytes from its beginning."""

    version: int
    alignment: int
    entries: list[tuple[str, int, int]]
    """Key, start and end of each metadata entry, in the order of the file."""
    kinds: list[int]
    """Type number of each tensor."""
    starts: list[int]
    """Start of each tensor's data."""


@dataclass(frozen=True, slots=True)
class GgufFile:
    """Header of one file."""

    path: Path
    metadata: Mapping[str, Scalar]
    """Scalars and strings; an array (mostly a vocabulary) is represented by its length and digest."""
    tensors: list[TensorInfo]
    arrays: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Arrays of integers in the metadata with at most `LONGEST_ARRAY` items, e.g. one number per layer."""
    layout: GgufLayout = GgufLayout(VERSIONS[-1], ALIGNMENT, [], [], [])

    @property
    def architecture(self) -> str:
        """Architecture by llama.cpp's name; empty if the file has none."""
        return str(self.metadata.get("general.architecture", ""))

    def number(self, key: str) -> int | None:
        """Return an integer of the architecture, e.g. `expert_count`; None if it is absent."""
        value = self.metadata.get(f"{self.architecture}.{key}")
        return value if isinstance(value, int) else None

    def array(self, key: str) -> tuple[int, ...] | None:
        """Return integers of the architecture, e.g. `expert_used_count` by layer; None if they are absent."""
        return self.arrays.get(f"{self.architecture}.{key}")


def is_gguf(path: Path) -> bool:
    """Return whether a file begins with GGUF's magic. The name does not matter: Ollama uses digests as names."""
    try:
        with open_regular(path) as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def read_parts(path: Path, *, digests: bool = True) -> list[GgufFile]:
    """Read the headers of a model's file and of its further parts, each checked against its file's size.

    Args:
        path: the first file.
        digests: as in `read_gguf`.

    Raises:
        UserError: a file is missing, truncated or not a GGUF file, or `path` is not the first part.
    """
    first = read_gguf(path, digests=digests)
    count = first.metadata.get("split.count")
    if not isinstance(count, int) or count <= 1:
        return [first]
    named = PART.fullmatch(path.name)
    if named is None or int(named["number"]) != 1 or int(named["count"]) != count:
        advice = f"give the part named …-00001-of-{count:05}.gguf"
        if first.metadata.get("split.no") == 0:  # renamed, or several parts written into one file
            advice += " in one folder with the others, or merge them with `llama-gguf-split --merge`"
        raise UserError(f"{path} is one of {count} parts", advice=advice)
    rest = (path.with_name(f"{named['stem']}-{number:05}-of-{count:05}.gguf") for number in range(2, count + 1))
    return [first, *(read_gguf(part, digests=digests) for part in rest)]


def read_gguf(path: Path, *, digests: bool = True) -> GgufFile:
    """Read the header of one file, checked against the file's size.

    Args:
        path: the file.
        digests: represent an array by its length and digest, as a fingerprint needs it; else by its length.

    Raises:
        UserError: the file is missing, truncated or not a GGUF file.
    """
    try:
        with open_regular(path) as file:
            _check_start(path, file.read(8))
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Reader(path, data, digests=digests).read()
    except OSError as error:
        raise unreadable(path, error) from error


def _check_start(path: Path, start: bytes) -> None:
    """Check magic and version."""
    if start == b"version ":
        raise UserError(f"{path} is a Git LFS pointer, not the weights", advice="run `git lfs pull` in its folder")
    if start[:4] != MAGIC:
        raise UserError(f"{path} is not a GGUF file", advice=AGAIN)
    if len(start) < 8:
        raise UserError(f"{path} is truncated: {len(start)} bytes are too few for a header", advice=AGAIN)
    version = int.from_bytes(start[4:], "little")
    if int.from_bytes(start[4:], "big") in VERSIONS:
        raise UserError(f"{path} is a big-endian GGUF file", advice="convert the model for this machine")
    if version not in VERSIONS:
        raise UserError(f"{path} has GGUF version {version}, but only 2 and 3 are supported", advice=AGAIN)


class _Reader:
    """Parser of one header."""

    def __init__(self, path: Path, data: mmap.mmap, *, digests: bool) -> None:
        self._path = path
        self._data = data
        self._digests = digests
        self._strings_left = MOST_STRINGS
        self._at = 8
        self._arrays: dict[str, tuple[int, ...]] = {}
        self._entries: list[tuple[str, int, int]] = []

    def read(self) -> GgufFile:
        try:
            tensor_count, entry_count = self._scalar(COUNT), self._scalar(COUNT)
            self._check_count("tensors", tensor_count, MOST_TENSORS)
            self._check_count("metadata entries", entry_count, MOST_ENTRIES)
            metadata = dict(self._entry() for _ in range(entry_count))
            rows = [self._row() for _ in range(tensor_count)]
        except (struct.error, IndexError, OverflowError) as error:
            size = len(self._data)
            raise UserError(f"{self._path} is truncated inside its header: {size:,} bytes", advice=AGAIN) from error
        alignment = self._alignment(metadata)
        start = -(-self._at // alignment) * alignment
        kinds, starts = [row[2] for row in rows], [start + row[3] for row in rows]
        layout = GgufLayout(int.from_bytes(self._data[4:8], "little"), alignment, self._entries, kinds, starts)
        return GgufFile(self._path, metadata, self._tensors(start, rows), self._arrays, layout)

    # -- metadata

    def _entry(self) -> tuple[str, Scalar]:
        start = self._at
        key = self._string()
        kind = self._scalar(NUMBER)
        value = self._array(key) if kind == ARRAY else self._value(kind)
        self._entries.append((key, start, self._at))
        return key, value

    def _value(self, kind: int) -> Scalar:
        if kind == STRING:
            return self._string()
        if kind not in SCALARS:
            raise self._corrupt(f"unknown metadata type {kind}")
        value: Scalar = self._scalar(SCALARS[kind])
        return value

    def _array(self, key: str) -> str:
        """Return length and digest of an array: vocabularies are not needed. Keep short arrays of integers."""
        kind, count = self._scalar(NUMBER), self._scalar(COUNT)
        start = self._at
        if kind == STRING:
            self._skip_strings(count)
        elif kind in SCALARS:
            self._skip(count * SCALARS[kind].size)
            if kind in INTEGERS and count <= LONGEST_ARRAY:
                self._arrays[key] = tuple(each for [each] in SCALARS[kind].iter_unpack(self._data[start : self._at]))
        else:
            raise self._corrupt(f"unknown metadata type {kind}")
        length = f"{count} items"
        return f"{length}, {hashlib.sha256(self._data[start : self._at]).hexdigest()}" if self._digests else length

    def _skip_strings(self, count: int) -> None:
        """Skip strings, each stored as its length in 8 bytes and its text."""
        if count > self._strings_left:
            raise self._corrupt(f"an array of {count:,} strings")
        self._strings_left -= count
        while count > 0:
            found = self._skip_short_strings(count) if count >= MANY_STRINGS else 0
            singly = min(count - found, SKIPPED_SINGLY if count >= MANY_STRINGS else count)
            for _ in range(singly):
                self._skip(self._scalar(COUNT))
            count -= found + singly

    def _skip_short_strings(self, most: int) -> int:
        """Skip up to `most` short strings from here, and return their number.

        A length of 1 to 255 is a byte followed by seven zero bytes. From the first string on, each of these places is
        the start of a string exactly if it is where the string before it ends; a text with zero bytes breaks the chain.
        """
        import numpy as np  # here, because every command imports this module, and NumPy takes 0.1 s

        bytes_ = np.frombuffer(self._data[self._at : self._at + WINDOW], np.uint8)
        if len(bytes_) < COUNT.size or not 0 < bytes_[0] <= LONGEST_SHORT or bytes_[1 : COUNT.size].any():
            return 0
        zero = bytes_ == 0
        two = zero[:-1] & zero[1:]
        four = two[:-2] & two[2:]
        seven = four[:-3] & four[3:]
        starts = np.flatnonzero(seven[1:] & ~zero[: len(seven) - 1])
        ends = starts + COUNT.size + bytes_[starts]
        broken = np.flatnonzero(ends[:-1] != starts[1:])
        found = min(most, int(broken[0]) if len(broken) else len(starts) - 1)
        if found:
            self._at += int(ends[found - 1])
        return found

    # -- tensors

    def _row(self) -> tuple[str, tuple[int, ...], int, int]:
        """Return name, shape, type number and offset of one tensor."""
        name = self._string()
        dimensions = self._scalar(NUMBER)
        if dimensions > MOST_DIMENSIONS:
            raise self._corrupt(f"tensor {name!r} has {dimensions} dimensions")
        shape = tuple(self._scalar(COUNT) for _ in range(dimensions))
        return name, shape, self._scalar(NUMBER), self._scalar(COUNT)

    def _alignment(self, metadata: Mapping[str, Scalar]) -> int:
        alignment = metadata.get("general.alignment", ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1:
            raise self._corrupt(f"alignment {alignment!r}")
        return alignment

    def _tensors(self, start: int, rows: Sequence[tuple[str, tuple[int, ...], int, int]]) -> list[TensorInfo]:
        tensors = [self._tensor(start, *row) for row in rows]
        places = sorted((row[-1], tensor.name, tensor.bytes) for row, tensor in zip(rows, tensors, strict=True))
        for (before, first, size), (offset, second, _) in pairwise(places):
            if offset < before + size:
                raise self._corrupt(f"tensors {first!r} and {second!r} overlap")
        return tensors

    def _tensor(self, start: int, name: str, shape: tuple[int, ...], kind: int, offset: int) -> TensorInfo:
        # An unlisted type is newer than this reader: llama.cpp checks its support and size.
        dtype, block, block_bytes = TENSOR_TYPES.get(kind, (f"type {kind}", 1, 0))
        elements = math.prod(shape)
        if elements % block:
            raise self._corrupt(f"tensor {name!r} does not consist of whole blocks")
        end = start + offset + elements // block * block_bytes
        if end > len(self._data):
            raise UserError(
                f"{self._path} is truncated: tensor {name!r} ends at {end:,} of {len(self._data):,} bytes", advice=AGAIN
            )
        return TensorInfo(name, dtype, shape, elements // block * block_bytes)

    # -- bytes

    def _scalar(self, form: struct.Struct) -> Any:
        [value] = form.unpack_from(self._data, self._at)
        self._at += form.size
        return value

    def _string(self) -> str:
        start = self._at + COUNT.size
        self._skip(self._scalar(COUNT))
        return self._data[start : self._at].decode(errors="replace")

    def _skip(self, length: int) -> None:
        self._at += length
        if self._at > len(self._data):
            raise IndexError(self._at)
        if self._at > LONGEST_HEADER:
            raise self._corrupt(f"a header of more than {LONGEST_HEADER:,} bytes")

    def _check_count(self, what: str, count: int, most: int) -> None:
        if count > most:
            raise self._corrupt(f"a header with {count:,} {what}")

    def _corrupt(self, what: str) -> UserError:
        return UserError(f"{self._path} is corrupt: {what}", advice=AGAIN)
