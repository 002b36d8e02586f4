"""Copying of byte ranges from one file to another, with a digest of the whole source on the way.

The source is read once, from its beginning to its end, in steps: no tensor is held in memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from moe_watch.backends.model_files.safetensors import unreadable
from moe_watch.backends.system.regular_files import open_regular
from moe_watch.routing.errors import UserError

STEP = 8 << 20
"""Bytes read at once."""

Advance = Callable[[int], None]
"""Receives the number of bytes read since the last call."""


class CopiedRange(NamedTuple):
    """Bytes of a source and their place in the output."""

    start: int
    stop: int
    target: int


def kept_ranges(start: int, size: int, experts: int, kept: Sequence[int], target: int) -> list[CopiedRange]:
    """Return the ranges of the kept experts of a tensor whose slowest axis has them, neighbours joined.

    Args:
        start: start of the tensor in the source.
        size: its bytes, a multiple of `experts`.
        experts: number of experts in the source.
        kept: numbers of the kept experts, ascending.
        target: start of the tensor in the output.
    """
    each = size // experts
    ranges: list[CopiedRange] = []
    for place, number in enumerate(kept):
        at = start + number * each
        if ranges and ranges[-1].stop == at:
            ranges[-1] = ranges[-1]._replace(stop=at + each)
        else:
            ranges.append(CopiedRange(at, at + each, target + place * each))
    return ranges


def copy_ranges(source: Path, ranges: Iterable[CopiedRange], output: BinaryIO, advance: Advance) -> str:
    """Copy ranges of a file, and return the SHA-256 of the whole file.

    Raises:
        UserError: the source cannot be read to the end of the last range.
        OSError: the output cannot be written.
    """
    digest = hashlib.sha256()
    waiting = sorted(ranges, reverse=True)
    end = waiting[0].stop if waiting else 0
    at = 0
    try:
        file = open_regular(source)
    except OSError as error:
        raise unreadable(source, error) from error
    with file:
        while block := _read(source, file):
            digest.update(block)
            view = memoryview(block)
            stop = at + len(block)
            while waiting and waiting[-1].start < stop:
                each = waiting.pop()
                first, last = max(each.start, at), min(each.stop, stop)
                output.seek(each.target + first - each.start)
                output.write(view[first - at : last - at])
                if each.stop > stop:
                    waiting.append(each)
                    break
            at = stop
            advance(len(block))
    if at < end:
        raise UserError(f"{source} became shorter while it was read", advice="prune it again")
    return digest.hexdigest()


def _read(source: Path, file: BinaryIO) -> bytes:
    try:
        return file.read(STEP)
    except OSError as error:
        raise unreadable(source, error) from error
