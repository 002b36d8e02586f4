"""The lines of a session's bytes, one after another, in the memory of one line."""

from __future__ import annotations

from dataclasses import dataclass

from moe_watch.sessions.reading.store import READ_BYTES, Store

MAX_LINE = 16 * 1024 * 1024
"""Bytes. A keyframe of 94 × 512 takes about 5 MB."""


class LineTooLongError(ValueError):
    """A line of more than `MAX_LINE` bytes. Asked again, `Lines` goes on behind it."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line and where it stands."""

    number: int
    """1-based."""
    offset: int
    """Of its first byte."""
    content: bytes
    """Without its end."""


class Lines:
    """Reads lines from a store that may be growing.

    Args:
        store: the bytes.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.number = 0
        """Of the line read last."""
        self.last_offset = 0
        """Of its first byte."""
        self._buffer = b""
        self._base = 0
        """Offset of the buffer's first byte."""
        self._position = 0
        """In the buffer."""
        self._too_long = False
        """The line read last is longer than any may be, and its end was not looked for."""

    @property
    def offset(self) -> int:
        """Of the next line."""
        return self._base + self._position

    @property
    def at_end(self) -> bool:
        """Nothing is left, and nothing will come."""
        return self._store.complete and self.offset >= self._store.size()

    def go_to(self, number: int, offset: int) -> None:
        """Have the line of this number, which begins at this offset, read next."""
        self.number, self._base = number - 1, offset
        self._buffer, self._position, self._too_long = b"", 0, False

    def next(self) -> Line | None:
        """The next line; None if there is no whole one. A last line without its end is one if no more will come.

        Raises:
            LineTooLongError: it takes more than `MAX_LINE` bytes.
            UserError: it cannot be read.
        """
        if self._too_long and not self._skip():
            return None
        end = self._find_end()
        if end is None:
            return None
        offset, content = self.offset, self._buffer[self._position : end]
        self.last_offset = offset
        self._position = min(end + 1, len(self._buffer))
        self.number += 1
        return Line(self.number, offset, content.rstrip(b"\r"))

    def _find_end(self) -> int | None:
        """Where in the buffer the next line ends; reads on as far as that takes."""
        searched = self._position
        while (end := self._buffer.find(b"\n", searched)) < 0 and self._room():
            searched = len(self._buffer) - self._position
            complete = self._store.complete
            if not self._read():
                return len(self._buffer) if complete and self._buffer else None
        if not 0 <= end - self._position <= MAX_LINE:
            self.number += 1
            self.last_offset = self.offset
            self._too_long = True
            raise LineTooLongError(f"longer than {MAX_LINE >> 20} MB")
        return end

    def _room(self) -> bool:
        return len(self._buffer) - self._position <= MAX_LINE

    def _read(self) -> bool:
        """Have the buffer begin with the next line and hold more of it; False if there is no more."""
        rest = self._buffer[self._position :]
        start = self.offset + len(rest)
        length = min(max(READ_BYTES, len(rest)), self._store.size() - start)
        more = self._store.read(start, length)
        self._base, self._position, self._buffer = self.offset, 0, rest + more
        return bool(more)

    def _skip(self) -> bool:
        """Go behind the end of a line without keeping it; False if its end is not there."""
        while (end := self._buffer.find(b"\n", self._position)) < 0:
            self._position = len(self._buffer)
            if not self._read():
                return False
        self._position = end + 1
        self._too_long = False
        return True
