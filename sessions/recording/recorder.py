"""Writing a session file while the run goes on.

Every event reaches the operating system before `append` returns (in a compressed file, a quarter of a second later), so
a killed process loses none. The disk is made to follow often enough that a power cut loses at most about a second. A
file that cannot be written any more never stops the run: the recorder says so in `problem` and takes nothing more, and
the file ends with a whole line.
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

from moe_watch.routing.events import Chunk, Event, Header, Keyframe, State, Token, Unknown, to_json
from moe_watch.sessions import paths
from moe_watch.sessions.recording.sinks import FileSink, Pending, Sink, StreamSink, ZstdSink
from moe_watch.sessions.text import whole_text

SYNC_SECONDS = 1.0
"""What a power cut may cost."""
CHUNK_SYNC_SECONDS = 0.25
"""Chunk ends are written through as well, but not so often that a fast model waits for a slow disk."""
FLUSH_SECONDS = 0.25
"""How long a compressor may keep a line for itself, which a killed process then loses."""

_REASONS = {
    errno.ENOSPC: "disk full",
    errno.EDQUOT: "disk quota used up",
    errno.EFBIG: "the file has reached the largest size allowed",
    errno.ENOENT: "the file was deleted, with all before it",
    errno.EPIPE: "nobody reads the output any more",
}


class Recorder:
    """One session file in the making.

    Args:
        sink: where to write; closed if the header cannot be written.
        path: what the file is called; None if it is no file.
        header: its first line.
        clock: monotonic seconds.
        beside: where it lies until it holds a token, if `path` is another file's until then.

    Raises:
        OSError: the header cannot be written.
    """

    def __init__(
        self,
        sink: Sink,
        path: Path | None,
        header: Header,
        clock: Callable[[], float] = time.monotonic,
        *,
        beside: Path | None = None,
    ) -> None:
        self.path = path
        self.problem = ""
        """Why nothing is written any more, and since which token; empty while all is well."""
        self.unwritten: Pending = ()
        """Lines of events that `append` took and that are nevertheless not in the file, because it takes no more."""
        self._sink = sink
        self._open = True
        self._file = beside or path
        self._clock = clock
        self._synced = self._flushed = clock()
        self._next_token = self._next_flushed = 0
        try:
            self._sink.write(line_of(header))
            self._sink.flush()
        except OSError:
            self.discard()
            raise

    @classmethod
    def create(
        cls, path: Path, header: Header, *, force: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> Recorder:
        """Begin a file under this name, in folders that are created if need be; compressed if it ends in `.zst`.

        With `force` a file that is there already is replaced in one step, and not before there is a token: a run that
        never begins costs nothing.

        Raises:
            UserError: the file exists, or cannot be created.
        """
        with paths.writing(path):
            if force and path.exists():
                return cls._replace(path.resolve(), header, clock)
            return cls._new(paths.create(path), path, header, clock)

    @classmethod
    def numbered(
        cls,
        folder: Path,
        stem: str,
        header: Header,
        *,
        first: int = 1,
        ending: str = paths.SUFFIX,
        clock: Callable[[], float] = time.monotonic,
    ) -> Recorder:
        """Begin `STEM-NUMBER.moe.jsonl` in a folder, with the first number from `first` on that is free.

        Raises:
            UserError: it cannot be created.
        """
        with paths.writing(folder):
            descriptor, path = paths.create_numbered(folder, stem, first, ending=ending)
            return cls._new(descriptor, path, header, clock)

    @classmethod
    def continuation(
        cls, first: Path, header: Header, *, number: int = 2, clock: Callable[[], float] = time.monotonic
    ) -> Recorder:
        """Begin the next part, `NAME.NUMBER.moe.jsonl`, of a run whose first file can take no more.

        Raises:
            UserError: it cannot be created.
        """
        with paths.writing(first.parent):
            stem, ending = paths.stem_of(first), paths.ending_of(first)
            descriptor, path = paths.create_numbered(first.parent, stem, number, between=".", ending=ending)
            return cls._new(descriptor, path, header, clock)

    @classmethod
    def stream(cls, descriptor: int, header: Header, *, clock: Callable[[], float] = time.monotonic) -> Recorder:
        """Write to a descriptor that leads to a pipe or a terminal; it is closed in the end.

        Raises:
            OSError: nobody reads it.
        """
        return cls(StreamSink(descriptor), None, header, clock)

    @classmethod
    def _new(cls, descriptor: int, path: Path, header: Header, clock: Callable[[], float]) -> Recorder:
        recorder = cls(_sink(descriptor, path), path, header, clock)
        paths.sync_folder(path.parent)
        return recorder

    @classmethod
    def _replace(cls, path: Path, header: Header, clock: Callable[[], float]) -> Recorder:
        if not stat.S_ISREG(path.stat().st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        descriptor, beside = tempfile.mkstemp(prefix=f".{path.name[: paths.MAX_NAME]}.", dir=path.parent)
        return cls(_sink(descriptor, path), path, header, clock, beside=Path(beside))

    @property
    def name(self) -> str:
        """The file's name without its folder."""
        return self.path.name if self.path is not None else "standard output"

    @property
    def bytes(self) -> int:
        """Size of what is written, whole lines only."""
        return self._sink.size

    @property
    def writing(self) -> bool:
        """Whether the file is open and well."""
        return self._open

    @property
    def holds_back(self) -> bool:
        """Return whether lines may wait in a compressor, so that a failure may come later."""
        return isinstance(self._sink, ZstdSink)

    @property
    def is_flushed(self) -> bool:
        """Return whether the system has all that was appended."""
        return not self._sink.pending

    @property
    def in_place(self) -> bool:
        """Whether `path` is this file, and no longer the one that it is to replace."""
        return self._file == self.path

    def append(self, event: Event | Unknown) -> bool:
        """Write one event; returns whether it was taken. Never raises: see `problem`."""
        if not self._open:
            return False
        if isinstance(event, Token):
            self._next_token = event.i
        try:
            self._sink.write(line_of(event))
            self._take_place(event)
            if self._clock() - self._synced >= _patience(event):
                self._sync()
        except OSError as error:
            self._fail(error, tuple(self._sink.pending[:-1]))  # the last one is this event's
            return False
        self._next_token += isinstance(event, Token)
        self._note_flushed()
        return True

    def tick(self) -> None:
        """Do what is due; to be called several times a second."""
        if self._open and self._sink.pending and self._clock() - self._flushed >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> bool:
        """Hand everything to the system; returns whether that was possible."""
        try:
            self._sink.flush()
        except OSError as error:
            self._fail(error, tuple(self._sink.pending))
            return False
        self._note_flushed()
        return True

    def take_back(self) -> None:
        """Remove the event that was written last, if the file was not handed on with it."""
        if self._open:
            with contextlib.suppress(OSError):
                self._sink.take_back()

    def close(self) -> None:
        """Write through and close; a file that is not in its place yet is removed. Safe to call twice."""
        if not self._open:
            return
        try:
            self._check_place()
            self._sink.finish()
        except OSError as error:
            self._fail(error, tuple(self._sink.pending))
        else:
            self._release()

    def discard(self) -> None:
        """Close and remove the file. One that it was to replace stays."""
        self._release()
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.unlink()

    def _take_place(self, event: Event | Unknown) -> None:
        if self._file is not None and not self.in_place and _holds_tokens(event):
            assert self.path is not None
            self._file = self._file.replace(self.path)
            paths.sync_folder(self.path.parent)

    def _sync(self) -> None:
        self._check_place()
        self._sink.sync()
        self._synced = self._clock()

    def _check_place(self) -> None:
        """Writing to a deleted file, or one that was moved away, goes on without complaint."""
        if self._file is None:
            return
        ours = os.fstat(self._sink.fileno())
        if ours.st_nlink == 0:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        try:
            there = self._file.stat()
        except (FileNotFoundError, NotADirectoryError):
            raise OSError(0, "the file was moved away") from None
        if not os.path.samestat(ours, there):
            raise OSError(0, "another file took its place")

    def _note_flushed(self) -> None:
        if not self._sink.pending:
            self._flushed, self._next_flushed = self._clock(), self._next_token

    def _fail(self, error: OSError, unwritten: Pending) -> None:
        reason = _REASONS.get(error.errno or 0) or error.strerror or str(error)
        self.unwritten = unwritten
        since = self._next_flushed if unwritten else self._next_token
        self.problem = f"{reason}; nothing is recorded since token {since}"
        with contextlib.suppress(OSError):
            self._sink.take_back()
        self._release()

    def _release(self) -> None:
        if self._open:
            self._open = False
            with contextlib.suppress(OSError):
                self._sink.close()
        if self._file is not None and not self.in_place:
            with contextlib.suppress(OSError):
                self._file.unlink()


def _sink(descriptor: int, path: Path) -> Sink:
    return ZstdSink(descriptor) if path.name.endswith(paths.COMPRESSED) else FileSink(descriptor)


def _holds_tokens(event: Event | Unknown) -> bool:
    """Whether a recording is worth keeping from this event on."""
    return isinstance(event, Token) or (isinstance(event, Keyframe) and event.i > 0)


def _patience(event: Event | Unknown) -> float:
    """Seconds since the last write-through after which this event asks for one."""
    if isinstance(event, State):
        return 0.0
    return CHUNK_SYNC_SECONDS if isinstance(event, Chunk) else SYNC_SECONDS


def line_of(event: Event | Unknown) -> bytes:
    """One event as one whole line."""
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
