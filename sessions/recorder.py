"""Writing a session file while the run goes on.

Every event reaches the operating system before `append` returns, so a killed process loses none. The disk is made to
follow often enough that a power cut loses at most about a second. A file that cannot be written any more never stops
the run: the recorder says so in `problem` and drops what comes after, and the file ends with a whole line.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from routing.events import Chunk, Event, Header, Keyframe, State, Token, Unknown, to_json
from sessions import paths
from sessions.text import whole_text

SYNC_SECONDS = 1.0
"""What a power cut may cost."""
CHUNK_SYNC_SECONDS = 0.25
"""Chunk ends are written through as well, but not so often that a fast model waits for a slow disk."""

_REASONS = {
    errno.ENOSPC: "disk full",
    errno.EDQUOT: "disk quota used up",
    errno.EFBIG: "the file has reached the largest size allowed",
    errno.ENOENT: "the file was deleted, with all before it",
}


class Recorder:
    """One session file in the making.

    Args:
        descriptor: the empty file to write to; closed if the header cannot be written.
        path: what it is called.
        header: its first line.
        clock: monotonic seconds.
        beside: where it lies until it holds a token, if `path` is another file's until then.

    Raises:
        OSError: the header cannot be written.
    """

    def __init__(
        self,
        descriptor: int,
        path: Path,
        header: Header,
        clock: Callable[[], float] = time.monotonic,
        *,
        beside: Path | None = None,
    ) -> None:
        self.path = path
        self.bytes = 0
        """Size of what is written, whole lines only."""
        self.problem = ""
        """Why nothing is written any more, and since which token; empty while all is well."""
        self._descriptor: int | None = descriptor
        self._file = beside or path
        self._clock = clock
        self._synced = clock()
        self._next_token = 0
        try:
            self._write(_line(header))
        except OSError:
            self.discard()
            raise

    @classmethod
    def create(
        cls, path: Path, header: Header, *, force: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> Recorder:
        """Begin a file under this name, in folders that are created if need be.

        With `force` a file that is there already is replaced in one step, and not before there is a token: a run that
        never begins costs nothing.

        Raises:
            UserError: the file exists, or cannot be created.
        """
        with paths.writing(path):
            if force and path.exists():
                return cls._replace(path.resolve(), header, clock)
            return cls(paths.create(path), path, header, clock)

    @classmethod
    def numbered(
        cls, folder: Path, stem: str, header: Header, *, first: int = 1, clock: Callable[[], float] = time.monotonic
    ) -> Recorder:
        """Begin `STEM-NUMBER.moe.jsonl` in a folder, with the first number from `first` on that is free.

        Raises:
            UserError: it cannot be created.
        """
        with paths.writing(folder):
            descriptor, path = paths.create_numbered(folder, stem, first)
            return cls(descriptor, path, header, clock)

    @classmethod
    def _replace(cls, path: Path, header: Header, clock: Callable[[], float]) -> Recorder:
        if not stat.S_ISREG(path.stat().st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        descriptor, beside = tempfile.mkstemp(prefix=f".{path.name[: paths.MAX_NAME]}.", dir=path.parent)
        return cls(descriptor, path, header, clock, beside=Path(beside))

    @property
    def name(self) -> str:
        """The file's name without its folder."""
        return self.path.name

    @property
    def writing(self) -> bool:
        """Whether the file is open and well."""
        return self._descriptor is not None

    @property
    def in_place(self) -> bool:
        """Whether `path` is this file, and no longer the one that it is to replace."""
        return self._file == self.path

    def append(self, event: Event | Unknown) -> None:
        """Write one event. Never raises: see `problem`."""
        if self._descriptor is None:
            return
        if isinstance(event, Token):
            self._next_token = event.i
        try:
            self._write(_line(event))
            if not self.in_place and _holds_tokens(event):
                self._file = self._file.replace(self.path)
            if self._clock() - self._synced >= _patience(event):
                self._sync()
        except OSError as error:
            self._fail(error)
        else:
            self._next_token += isinstance(event, Token)

    def close(self) -> None:
        """Write through and close; a file that is not in its place yet is removed. Safe to call twice."""
        if self._descriptor is None:
            return
        try:
            self._sync()
        except OSError as error:
            self._fail(error)
        else:
            self._release()

    def discard(self) -> None:
        """Close and remove the file. One that it was to replace stays."""
        self._release()
        with contextlib.suppress(OSError):
            self._file.unlink()

    def _write(self, line: bytes) -> None:
        assert self._descriptor is not None
        rest = memoryview(line)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
        self.bytes += len(line)

    def _sync(self) -> None:
        assert self._descriptor is not None
        if os.fstat(self._descriptor).st_nlink == 0:  # writing to a deleted file goes on without complaint
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        os.fsync(self._descriptor)
        self._synced = self._clock()

    def _fail(self, error: OSError) -> None:
        reason = _REASONS.get(error.errno or 0) or error.strerror or str(error)
        self.problem = f"{reason}; nothing is recorded since token {self._next_token}"
        with contextlib.suppress(OSError):
            assert self._descriptor is not None
            os.ftruncate(self._descriptor, self.bytes)
        self._release()

    def _release(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        if not self.in_place:
            with contextlib.suppress(OSError):
                self._file.unlink()


def _holds_tokens(event: Event | Unknown) -> bool:
    """Whether a recording is worth keeping from this event on."""
    return isinstance(event, Token) or (isinstance(event, Keyframe) and event.i > 0)


def _patience(event: Event | Unknown) -> float:
    """Seconds since the last write-through after which this event asks for one."""
    if isinstance(event, State):
        return 0.0
    return CHUNK_SYNC_SECONDS if isinstance(event, Chunk) else SYNC_SECONDS


def _line(event: Event | Unknown) -> bytes:
    try:
        return to_json(event) + b"\n"
    except UnicodeEncodeError:  # half of a surrogate pair, which UTF-8 cannot hold
        return msgspec.json.encode(_whole_value(msgspec.to_builtins(event))) + b"\n"


def _whole_value(value: Any) -> Any:
    """The same JSON value with `whole_text` in place of each text."""
    if isinstance(value, str):
        return whole_text(value)
    if isinstance(value, list | tuple):
        return [_whole_value(each) for each in value]
    return {key: _whole_value(each) for key, each in value.items()} if isinstance(value, dict) else value
