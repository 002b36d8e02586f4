"""Where the lines of a session go: a file, a compressed file, or a stream that somebody else reads."""

from __future__ import annotations

import fcntl
import os
import select
from collections.abc import Sequence
from typing import Protocol

ZSTD_LEVEL = 1
"""Session files get no more than 5 % smaller at higher levels, which take up to thirty times as long."""

Pending = Sequence[bytes]
"""Whole lines that are not handed to the system yet."""


class Sink(Protocol):
    """Takes whole lines. Whatever cannot be done raises `OSError`."""

    @property
    def size(self) -> int:
        """Bytes handed to the system so far."""

    @property
    def pending(self) -> Pending:
        """Lines taken that are not handed to the system yet: a killed process loses them."""

    def write(self, line: bytes) -> None: ...

    def flush(self) -> None:
        """Hand everything to the system."""

    def sync(self) -> None:
        """Have everything on the disk."""

    def take_back(self) -> None:
        """Remove the line written last, or what there is of it; nothing where that is not possible any more."""

    def finish(self) -> None:
        """Write what belongs at the end, and have everything on the disk."""

    def close(self) -> None:
        """Let go of the descriptor."""

    def fileno(self) -> int: ...


class FileSink:
    """Every line is handed to the system at once. Owns the descriptor."""

    pending: Pending = ()

    def __init__(self, descriptor: int) -> None:
        self.size = 0
        self._descriptor = descriptor
        self._before = 0

    def write(self, line: bytes) -> None:
        self._before = self.size
        _write(self._descriptor, line)
        self.size += len(line)

    def flush(self) -> None:
        pass

    def sync(self) -> None:
        write_through(self._descriptor)

    def take_back(self) -> None:
        self.size = self._before
        _cut(self._descriptor, self.size)

    def finish(self) -> None:
        self.sync()

    def close(self) -> None:
        os.close(self._descriptor)

    def fileno(self) -> int:
        return self._descriptor


class ZstdSink:
    """One zstd frame; every `flush` ends a block, so that all lines before it can be unpacked. Owns the descriptor."""

    def __init__(self, descriptor: int) -> None:
        import zstandard

        self.size = 0
        self._descriptor = descriptor
        self._lines: list[bytes] = []
        self._frame = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True).compressobj()
        self._end_of_block = zstandard.COMPRESSOBJ_FLUSH_BLOCK

    @property
    def pending(self) -> Pending:
        return self._lines

    def write(self, line: bytes) -> None:
        self._lines.append(line)

    def flush(self) -> None:
        if self._lines:
            self._put(self._frame.compress(b"".join(self._lines)) + self._frame.flush(self._end_of_block))
            self._lines.clear()

    def sync(self) -> None:
        lines, size = self._lines.copy(), self.size
        self.flush()
        self._write_through(lines, size)

    def take_back(self) -> None:
        if self._lines:
            self._lines.pop()
        _cut(self._descriptor, self.size)

    def finish(self) -> None:
        lines, size = self._lines.copy(), self.size
        self.flush()
        self._put(self._frame.flush())
        self._write_through(lines, size)

    def close(self) -> None:
        os.close(self._descriptor)

    def fileno(self) -> int:
        return self._descriptor

    def _write_through(self, lines: list[bytes], size: int) -> None:
        """Have everything on the disk; if that fails, these lines are pending again, behind a file of this size."""
        try:
            write_through(self._descriptor)
        except OSError:
            self._lines, self.size = lines, size
            raise

    def _put(self, data: bytes) -> None:
        _write(self._descriptor, data)
        self.size += len(data)


class StreamSink:
    """A pipe, a terminal or whatever standard output is: what is written has gone. Owns the descriptor."""

    pending: Pending = ()

    def __init__(self, descriptor: int) -> None:
        self.size = 0
        self._descriptor = descriptor

    def write(self, line: bytes) -> None:
        _write(self._descriptor, line)
        self.size += len(line)

    def flush(self) -> None:
        pass

    def sync(self) -> None:
        pass

    def take_back(self) -> None:
        pass

    def finish(self) -> None:
        pass

    def close(self) -> None:
        os.close(self._descriptor)

    def fileno(self) -> int:
        return self._descriptor


def write_through(descriptor: int) -> None:
    """Return once the file is on the disk, and not only in the disk's own memory where the system can tell."""
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is not None:
        try:
            fcntl.fcntl(descriptor, full)
        except OSError:  # not on this file system
            pass
        else:
            return
    os.fsync(descriptor)


def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:  # somebody made the stream non-blocking, and its reader is slow
            select.select([], [descriptor], [])


def _cut(descriptor: int, size: int) -> None:
    os.ftruncate(descriptor, size)
    os.lseek(descriptor, size, os.SEEK_SET)
