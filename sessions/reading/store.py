"""Stores of a session's bytes: a file, or a spool of the bytes of a pipe.

Bytes are read with `pread` rather than mmap: truncating a mapped file kills its reader with SIGBUS, while `pread`
returns an error that can be shown to the user.
"""

from __future__ import annotations

import os
import stat
import tempfile
import threading
from pathlib import Path
from typing import Protocol

from moe_watch.routing.errors import UserError, reason_of, system_error
from moe_watch.sessions.reading.compression import ZSTANDARD, DecompressionError, Decompressor

READ_BYTES = 1 << 18
"""Bytes per read."""
STANDARD_INPUT = "standard input"


class Store(Protocol):
    """Random access to a session's bytes, which may grow."""

    @property
    def name(self) -> str:
        """Name in messages."""

    @property
    def complete(self) -> bool:
        """No more bytes will come."""

    def size(self) -> int:
        """Return the current size in bytes.

        Raises:
            UserError: the bytes read before are gone, or the store failed.
        """

    def read(self, start: int, length: int) -> bytes:
        """Return `length` bytes from `start`, fewer at the end.

        Raises:
            UserError: the bytes cannot be read.
        """

    def where(self, line: int, offset: int, /) -> tuple[str, int]:
        """Return file name and line number in that file for messages.

        Args:
            line: number of the line in the store.
            offset: offset of its first byte.
        """

    def follows_gap(self, offset: int, /) -> bool:
        """Return whether tokens are missing before the line at this offset: it need not follow from the line before."""

    def close(self) -> None:
        """Close the store. Safe to call twice."""


class FileStore:
    """Store of a regular file: its size when opened, or followed while it grows.

    Args:
        path: the file.
        follow: include bytes written after opening.

    Raises:
        UserError: the file cannot be opened.
    """

    def __init__(self, path: Path, *, follow: bool = False) -> None:
        self.name = str(path)
        self.complete = not follow
        self._path = path
        self._descriptor: int | None = _open(path)
        self._identity = _identity(os.fstat(self._descriptor))
        self._size = os.fstat(self._descriptor).st_size

    def size(self) -> int:
        if not self.complete:
            self._size = self._followed_size()
        return self._size

    def read(self, start: int, length: int) -> bytes:
        wanted = min(length, self._size - start)
        data = _read(self._descriptor, start, wanted, self.name)
        if len(data) < wanted:
            raise UserError(f"{self.name}: truncated while it was read", advice="open it again")
        return data

    def where(self, line: int, _offset: int, /) -> tuple[str, int]:
        return self.name, line

    def follows_gap(self, _offset: int, /) -> bool:
        return False

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _followed_size(self) -> int:
        try:
            now = self._path.stat()
        except OSError as error:
            reason = "removed" if isinstance(error, FileNotFoundError) else reason_of(error)
            raise UserError(f"{self.name}: {reason} while it was followed", advice="open it again") from error
        if _identity(now) != self._identity:
            raise UserError(f"{self.name}: replaced by another file while it was followed", advice="open it again")
        if now.st_size < self._size:
            raise UserError(f"{self.name}: truncated while it was followed", advice="open it again")
        return now.st_size


class Spool:
    """Store of the bytes of a descriptor, decompressed if needed, in an unnamed temporary file.

    Only its owner can read the file, and it is deleted when it is closed, however the program ends. A thread fills it.

    Args:
        descriptor: read to its end, then closed.
        name: name in messages.
    """

    def __init__(self, descriptor: int, name: str) -> None:
        self.name = name
        self.complete = False
        self._file = tempfile.TemporaryFile(prefix="moe-watch-")  # noqa: SIM115 - closed by `close`
        self._size = 0
        self._problem: UserError | None = None
        self._lock = threading.Lock()
        """Held during use of the file, so that it is not closed meanwhile."""
        self._thread = threading.Thread(target=self._fill, args=(descriptor,), daemon=True, name="spool")
        self._thread.start()

    def size(self) -> int:
        if self._problem is not None:
            raise self._problem
        return self._size

    def read(self, start: int, length: int) -> bytes:
        with self._lock:
            closed = self._file.closed
            return _read(None if closed else self._file.fileno(), start, min(length, self._size - start), self.name)

    def where(self, line: int, _offset: int, /) -> tuple[str, int]:
        return self.name, line

    def follows_gap(self, _offset: int, /) -> bool:
        return False

    def close(self) -> None:
        with self._lock:
            self._file.close()

    def wait(self) -> None:
        """Wait until all bytes are in the file."""
        self._thread.join()

    def _fill(self, descriptor: int) -> None:
        try:
            self._copy(descriptor)
        except DecompressionError as error:
            self._problem = UserError(f"{self.name}: {error}", advice="the compressed data is damaged")
        except OSError as error:
            self._problem = system_error(self.name, error, advice="free space for temporary files, or set TMPDIR")
        finally:
            os.close(descriptor)
            self.complete = True

    def _copy(self, descriptor: int) -> None:
        data = os.read(descriptor, READ_BYTES)
        while len(data) < len(ZSTANDARD) and (more := os.read(descriptor, READ_BYTES)):
            data += more
        unpacker = Decompressor() if data.startswith(ZSTANDARD) else None
        unpack = _same if unpacker is None else unpacker.feed
        while data and all(map(self._append, unpack(data))):
            data = os.read(descriptor, READ_BYTES)
        if unpacker is not None and unpacker.is_inside_frame and not (data or self._size):
            what = f"{self.name}: truncated inside its first compressed block"
            self._problem = UserError(what, advice="nothing can be read from it; copy the file again")

    def _append(self, data: bytes) -> bool:
        """Append to the file; return False if the store is closed."""
        with self._lock:
            if self._file.closed:
                return False
            self._file.write(data)
            self._file.flush()
        self._size += len(data)
        return True


def open_store(path: Path, *, follow: bool = False) -> Store:
    """Open a session file, decompressed if needed.

    Raises:
        UserError: the file cannot be read, or is compressed and to be followed.
    """
    plain = FileStore(path, follow=follow)
    if _read(plain._descriptor, 0, len(ZSTANDARD), plain.name) != ZSTANDARD:
        return plain
    plain.close()
    if follow:
        raise UserError(f"{path}: a file compressed with zstd cannot be followed", advice="omit --follow")
    return Spool(os.open(path, os.O_RDONLY | os.O_CLOEXEC), str(path))


def open_whole(path: Path) -> Store:
    """Open a session file and wait until all its bytes are there, for a compressed one until it is decompressed.

    Raises:
        UserError: the file cannot be read.
    """
    store = open_store(path)
    if isinstance(store, Spool):
        store.wait()
    return store


def _same(data: bytes) -> list[bytes]:
    return [data]


def _open(path: Path) -> int:
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise UserError(f"{path}: a folder, not a session file", advice="name a .moe.jsonl file in it")
        if not stat.S_ISREG(mode):
            raise UserError(f"{path}: not a regular file", advice="name a .moe.jsonl file, or - for standard input")
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file", advice="check the path") from error
    except (OSError, ValueError) as error:
        raise system_error(path, error, advice="name another file") from error


def _identity(status: os.stat_result) -> tuple[int, int]:
    return (status.st_dev, status.st_ino)


def _read(descriptor: int | None, start: int, length: int, name: str) -> bytes:
    if descriptor is None or length <= 0:
        return b""
    try:
        data = os.pread(descriptor, length, start)
        while len(data) < length and (more := os.pread(descriptor, length - len(data), start + len(data))):
            data += more
    except OSError as error:
        raise system_error(name, error, advice="name another file") from error
    return data
