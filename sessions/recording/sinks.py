"""Sinks for the lines of a session: a file, a compressed file, or a stream."""

from __future__ import annotations

import fcntl
import os
import select
from collections.abc import Sequence
from typing import Protocol

ZSTD_LEVEL = 1
"""Higher levels make session files at most 5 % smaller, and take up to thirty times as long."""

Pending = Sequence[bytes]
"""Whole lines that the operating system does not have yet."""


class Sink(Protocol):
    """Receiver of whole lines. Every failure raises `OSError`."""

    @property
    def size(self) -> int:
        """Bytes passed to the operating system so far."""

    @property
    def pending(self) -> Pending:
        """Accepted lines that the operating system does not have yet: a killed process loses them."""

    def write(self, line: bytes) -> None: ...

    def flush(self) -> None:
        """Pass all lines to the operating system."""

    def sync(self) -> None:
        """Sync everything to disk."""

    def take_back(self) -> None:
        """Remove the line written last, also a partial one; does nothing on a stream."""

    def finish(self) -> None:
        """Write the end of the file, and sync everything to disk."""

    def close(self) -> None:
        """Close the descriptor."""

    def fileno(self) -> int: ...


class FileSink:
    """Plain file; every line is passed to the operating system at once. Owns the descriptor."""

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
    """File of one zstd frame; every `flush` ends a block, so that all lines before it can be decompressed.

    Owns the descriptor.
    """

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
        """Sync to disk; if that fails, restore the given pending lines and file size."""
        try:
            write_through(self._descriptor)
        except OSError:
            self._lines, self.size = lines, size
            raise

    def _put(self, data: bytes) -> None:
        _write(self._descriptor, data)
        self.size += len(data)


class StreamSink:
    """Pipe, terminal or other stream: a written line cannot be taken back. Owns the descriptor."""

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
    """Sync a file to disk, past the disk's cache where the system supports it (F_FULLFSYNC)."""
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is not None:
        try:
            fcntl.fcntl(descriptor, full)
        except OSError:  # not supported by this file system
            pass
        else:
            return
    os.fsync(descriptor)


def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:  # the stream is non-blocking, and its reader is slow
            select.select([], [descriptor], [])


def _cut(descriptor: int, size: int) -> None:
    os.ftruncate(descriptor, size)
    os.lseek(descriptor, size, os.SEEK_SET)
