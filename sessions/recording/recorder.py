"""Writer of a session file during a run.

Every event reaches the operating system before `append` returns (in a compressed file, a quarter of a second later), so
a killed process loses none. The file is synced to disk often enough that a power failure loses at most about a second.
A write error never stops the run: the recorder reports it in `problem` and takes no more events, and the file ends with
a whole line.
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
"""Maximum seconds of events that a power failure loses."""
CHUNK_SYNC_SECONDS = 0.25
"""Minimum seconds between the syncs at chunk ends, so that a fast model does not wait for a slow disk."""
FLUSH_SECONDS = 0.25
"""Maximum seconds that a compressor holds a line; a killed process loses these lines."""

_REASONS = {
    errno.ENOSPC: "disk full",
    errno.EDQUOT: "disk quota used up",
    errno.EFBIG: "the file has reached the largest size allowed",
    errno.ENOENT: "the file was deleted, with all earlier events",
    errno.EPIPE: "the reader of the output has closed it",
}


class Recorder:
    """Writer of one session file.

    Args:
        sink: receives the lines; closed if the header cannot be written.
        path: path of the file; None for a stream.
        header: its first line.
        clock: monotonic seconds.
        beside: temporary path until the first token, if the file is to replace another one at `path`.

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
        """Error that ended the recording, with the first token that is missing; empty without an error."""
        self.unwritten: Pending = ()
        """Lines of events that `append` accepted but that did not reach the file before the error."""
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
        """Create a file with this name, and its folders; compressed if the name ends in `.zst`.

        With `force` an existing file is replaced atomically at the first token: a run that never begins leaves it
        unchanged.

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
        """Create `STEM-NUMBER.moe.jsonl` in a folder, with the first free number from `first` on.

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
        """Create the next continuation file, `NAME.NUMBER.moe.jsonl`, of a run that cannot write its first file.

        Raises:
            UserError: it cannot be created.
        """
        with paths.writing(first.parent):
            stem, ending = paths.stem_of(first), paths.ending_of(first)
            descriptor, path = paths.create_numbered(first.parent, stem, number, between=".", ending=ending)
            return cls._new(descriptor, path, header, clock)

    @classmethod
    def stream(cls, descriptor: int, header: Header, *, clock: Callable[[], float] = time.monotonic) -> Recorder:
        """Write to the descriptor of a pipe or a terminal; it is closed at the end.

        Raises:
            OSError: it has no reader.
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
        """Name of the file without its folder."""
        return self.path.name if self.path is not None else "standard output"

    @property
    def bytes(self) -> int:
        """Size of the written lines."""
        return self._sink.size

    @property
    def writing(self) -> bool:
        """The file is open and has no error."""
        return self._open

    @property
    def holds_back(self) -> bool:
        """A compressor may hold lines, so that a write error may come later."""
        return isinstance(self._sink, ZstdSink)

    @property
    def is_flushed(self) -> bool:
        """The operating system has all appended events."""
        return not self._sink.pending

    @property
    def in_place(self) -> bool:
        """The file is at `path`, and has replaced the earlier one."""
        return self._file == self.path

    def append(self, event: Event | Unknown) -> bool:
        """Write one event; returns whether it was accepted. Never raises: see `problem`."""
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
        """Do periodic work; to be called several times a second."""
        if self._open and self._sink.pending and self._clock() - self._flushed >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> bool:
        """Pass all lines to the operating system; returns False on an error."""
        try:
            self._sink.flush()
        except OSError as error:
            self._fail(error, tuple(self._sink.pending))
            return False
        self._note_flushed()
        return True

    def take_back(self) -> None:
        """Remove the event that was written last; has no effect on a stream."""
        if self._open:
            with contextlib.suppress(OSError):
                self._sink.take_back()

    def close(self) -> None:
        """Sync and close; a file that is not at `path` yet is removed. Safe to call twice."""
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
        """Close and remove the file. A file that it was to replace stays."""
        self._release()
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.unlink()

    def _take_place(self, event: Event | Unknown) -> None:
        if self._file is None or self.path is None or self.in_place:
            return
        if _holds_tokens(event):
            self._file = self._file.replace(self.path)
            paths.sync_folder(self.path.parent)

    def _sync(self) -> None:
        self._check_place()
        self._sink.sync()
        self._synced = self._clock()

    def _check_place(self) -> None:
        """Raise an `OSError` if the file was deleted or moved: writing to it would succeed."""
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
    """Return whether a recording is worth keeping from this event on."""
    return isinstance(event, Token) or (isinstance(event, Keyframe) and event.i > 0)


def _patience(event: Event | Unknown) -> float:
    """Return the seconds since the last sync after which this event requires one."""
    if isinstance(event, State):
        return 0.0
    return CHUNK_SYNC_SECONDS if isinstance(event, Chunk) else SYNC_SECONDS


def line_of(event: Event | Unknown) -> bytes:
    """Encode one event as one line."""
    try:
        return to_json(event) + b"\n"
    except UnicodeEncodeError:  # half of a surrogate pair, which UTF-8 cannot encode
        return msgspec.json.encode(_whole_value(msgspec.to_builtins(event))) + b"\n"


def _whole_value(value: Any) -> Any:
    """Return the JSON value with `whole_text` applied to each string."""
    if isinstance(value, str):
        return whole_text(value)
    if isinstance(value, list | tuple):
        return [_whole_value(each) for each in value]
    return {key: _whole_value(each) for key, each in value.items()} if isinstance(value, dict) else value
