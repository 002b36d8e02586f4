"""Where a session's bytes lie while they are read: a file, or what came through a pipe.

Bytes are read with `pread`, not through a map of the file: a mapped file that somebody cuts off kills whoever reads it,
and a read ends in an error that can be told.
"""

from __future__ import annotations

import os
import stat
import tempfile
import threading
from pathlib import Path
from typing import Protocol

from moe_watch.routing.errors import UserError, system_error
from moe_watch.sessions.reading.compression import ZSTANDARD, DecompressionError, Decompressor

READ_BYTES = 1 << 18
STANDARD_INPUT = "standard input"


class Store(Protocol):
    """A session's bytes, which may become more."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def complete(self) -> bool:
        """No more bytes will come."""

    def size(self) -> int:
        """Bytes there are now.

        Raises:
            UserError: what was read is no longer there, or no more can be had.
        """

    def read(self, start: int, length: int) -> bytes:
        """Bytes from `start` on, fewer where there are no more.

        Raises:
            UserError: they cannot be read.
        """

    def where(self, line: int, offset: int, /) -> tuple[str, int]:
        """In what and on which line of it a line stands, for messages; `offset` is that of its first byte."""

    def begins_anew(self, offset: int, /) -> bool:
        """Whether what comes before the line at this offset is missing, so that it need not follow from it."""

    def close(self) -> None:
        """Let go of it. Safe to call twice."""


class FileStore:
    """A regular file: as it was when it was opened, or followed while it grows.

    Args:
        path: the file.
        follow: take in what is written to it later.

    Raises:
        UserError: it cannot be opened.
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
            raise UserError(f"{self.name}: was cut off while it was read", advice="open it again")
        return data

    def where(self, line: int, _offset: int, /) -> tuple[str, int]:
        return self.name, line

    def begins_anew(self, _offset: int, /) -> bool:
        return False

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _followed_size(self) -> int:
        try:
            now = self._path.stat()
        except OSError as error:
            reason = "was removed" if isinstance(error, FileNotFoundError) else str(error.strerror)
            raise UserError(f"{self.name}: {reason} while it was followed", advice="open it again") from error
        if _identity(now) != self._identity:
            raise UserError(f"{self.name}: was replaced by another file while it was followed", advice="open it again")
        if now.st_size < self._size:
            raise UserError(f"{self.name}: was cut off while it was followed", advice="open it again")
        return now.st_size


class Spool:
    """What comes through a descriptor, unpacked if it is compressed, kept in a temporary file without a name.

    The file can be read by its owner only and is gone when it is closed, however the program ends. A thread fills it.

    Args:
        descriptor: read to its end, and closed.
        name: what messages call it.
    """

    def __init__(self, descriptor: int, name: str) -> None:
        self.name = name
        self.complete = False
        self._file = tempfile.TemporaryFile(prefix="moe-watch-")  # noqa: SIM115 - closed by `close`
        self._size = 0
        self._problem: UserError | None = None
        self._lock = threading.Lock()
        """Held while the file is used, so that it is not closed meanwhile."""
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

    def begins_anew(self, _offset: int, /) -> bool:
        return False

    def close(self) -> None:
        with self._lock:
            self._file.close()

    def wait(self) -> None:
        """Wait until everything is there."""
        self._thread.join()

    def _fill(self, descriptor: int) -> None:
        try:
            self._copy(descriptor)
        except DecompressionError as error:
            self._problem = UserError(f"{self.name}: {error}", advice="the compressed data is damaged")
        except OSError as error:
            self._problem = system_error(self.name, error, advice="make room for temporary files, or set TMPDIR")
        finally:
            os.close(descriptor)
            self.complete = True

    def _copy(self, descriptor: int) -> None:
        data = os.read(descriptor, READ_BYTES)
        while len(data) < len(ZSTANDARD) and (more := os.read(descriptor, READ_BYTES)):
            data += more
        unpack = Decompressor().feed if data.startswith(ZSTANDARD) else _same
        while data and all(map(self._append, unpack(data))):
            data = os.read(descriptor, READ_BYTES)

    def _append(self, data: bytes) -> bool:
        """Write at the end; False if nobody wants it any more."""
        with self._lock:
            if self._file.closed:
                return False
            self._file.write(data)
            self._file.flush()
        self._size += len(data)
        return True


def open_store(path: Path, *, follow: bool = False) -> Store:
    """The bytes of a session file; of a compressed one, what it unpacks to.

    Raises:
        UserError: it cannot be read, or is compressed and to be followed.
    """
    plain = FileStore(path, follow=follow)
    if _read(plain._descriptor, 0, len(ZSTANDARD), plain.name) != ZSTANDARD:
        return plain
    plain.close()
    if follow:
        raise UserError(f"{path}: compressed with zstd, which cannot be followed", advice="leave out --follow")
    return Spool(os.open(path, os.O_RDONLY | os.O_CLOEXEC), str(path))


def open_whole(path: Path) -> Store:
    """The bytes of a session file when all of them are there: for one that is compressed, that takes its unpacking.

    Raises:
        UserError: it cannot be read.
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
