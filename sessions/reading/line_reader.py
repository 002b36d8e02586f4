"""Reader of the lines of a store, in the memory of one line."""

from __future__ import annotations

from dataclasses import dataclass

from moe_watch.sessions.reading.store import READ_BYTES, Store

MAX_LINE = 16 * 1024 * 1024
"""Maximum length of a line in bytes. A keyframe of 94 × 512 takes about 5 MB."""


class LineTooLongError(ValueError):
    """A line exceeds `MAX_LINE` bytes. The next call of `Lines.next` skips it."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line and its place in the store."""

    number: int
    """1-based."""
    offset: int
    """Offset of its first byte."""
    content: bytes
    """Bytes of the line without its newline."""


class Lines:
    """Reader of lines from a store that may grow.

    Args:
        store: the session's bytes.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.number = 0
        """Number of the line read last."""
        self.last_offset = 0
        """Offset of its first byte."""
        self._buffer = b""
        self._base = 0
        """Offset of the buffer's first byte."""
        self._position = 0
        """Start of the next line in the buffer."""
        self._too_long = False
        """The line read last exceeds the limit; its end is not found yet."""

    @property
    def offset(self) -> int:
        """Offset of the next line."""
        return self._base + self._position

    @property
    def at_end(self) -> bool:
        """All lines are read and no more will come."""
        return self._store.complete and self.offset >= self._store.size()

    def go_to(self, number: int, offset: int) -> None:
        """Seek to the line with this number and offset."""
        self.number, self._base = number - 1, offset
        self._buffer, self._position, self._too_long = b"", 0, False

    def next(self) -> Line | None:
        """Return the next line, None if there is no whole line. In a complete store, the last line needs no newline.

        Raises:
            LineTooLongError: the line exceeds `MAX_LINE` bytes.
            UserError: the line cannot be read.
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
        """Return the end of the next line in the buffer, after reading as many blocks as needed."""
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
        """Move the buffer to the next line and read more of it; return False at the end of the store."""
        rest = self._buffer[self._position :]
        start = self.offset + len(rest)
        length = min(max(READ_BYTES, len(rest)), self._store.size() - start)
        more = self._store.read(start, length)
        self._base, self._position, self._buffer = self.offset, 0, rest + more
        return bool(more)

    def _skip(self) -> bool:
        """Skip the rest of a line without storing it; return False if its end is not written yet."""
        while (end := self._buffer.find(b"\n", self._position)) < 0:
            self._position = len(self._buffer)
            if not self._read():
                return False
        self._position = end + 1
        self._too_long = False
        return True
