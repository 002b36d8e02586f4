"""A run whose recording goes on in further files, read as if it were one: docs/session-format.md, "Continuation"."""

from __future__ import annotations

import re
from bisect import bisect_right
from contextlib import suppress
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

import msgspec

from routing.errors import UserError
from routing.events import Event, Header, Keyframe, State, from_json
from sessions.index import LineIndex
from sessions.lines import Lines
from sessions.paths import ending_of, stem_of
from sessions.store import FileStore, Store, open_store


@dataclass(frozen=True, slots=True)
class _Part:
    """A stretch of one file's bytes, and its place in the whole."""

    store: Store
    skipped: int
    """Bytes at the file's beginning that are left out, and lines."""
    skipped_lines: int
    start: int
    """Offset of its first byte in the whole."""
    line: int
    """Number of its first line in the whole, 1-based."""
    size: int


class JoinedStore:
    """The files of one run as one store: the first one, then what each other adds to it.

    It ends where something is missing, and `notes` say so.

    Args:
        first: the run's first file.
        further: those that go on with it, in order.
    """

    complete = True

    def __init__(self, first: FileStore, further: list[Path]) -> None:
        self.name = first.name
        self.notes: list[str] = []
        """What the person should know of the parts, one line each."""
        self._parts = [_Part(first, 0, 0, 0, 1, first.size())]
        for path in further:
            if not self._join(path):
                break

    def size(self) -> int:
        return self._parts[-1].start + self._parts[-1].size

    def where(self, line: int) -> tuple[str, int]:
        part = self._parts[bisect_right(self._parts, line, key=attrgetter("line")) - 1]
        return part.store.name, line - part.line + 1 + part.skipped_lines

    def read(self, start: int, length: int) -> bytes:
        pieces = []
        while length > 0 and start < self.size():
            part = self._parts[bisect_right(self._parts, start, key=attrgetter("start")) - 1]
            inside = start - part.start
            pieces.append(part.store.read(part.skipped + inside, min(length, part.size - inside)))
            start, length = start + len(pieces[-1]), length - len(pieces[-1])
        return b"".join(pieces)

    def close(self) -> None:
        for part in self._parts:
            part.store.close()

    def _join(self, path: Path) -> bool:
        """Go on with a file; False if something is missing between it and those before."""
        before = self._parts[-1]
        known = LineIndex(before.store)
        known.extend()
        store = FileStore(path)
        lines, opening = _opening(store)
        at = known.end
        if len(opening) < 2 or not isinstance(opening[1], Keyframe) or opening[1].i != at or _dropped(opening):
            store.close()
            self.notes.append(f"{self.name}: something is missing after token {at}; what comes later is in {path}")
            return False
        size = known.start_of(known.lines) - before.skipped
        line = before.line + known.lines - before.skipped_lines
        self._parts[-1] = _Part(before.store, before.skipped, before.skipped_lines, before.start, before.line, size)
        skipped = lines[2]
        self._parts.append(_Part(store, skipped, 2, before.start + size, line, store.size() - skipped))
        return True


def open_run(path: Path, *, follow: bool = False) -> Store:
    """The bytes of a session file, and of those that go on with it unless it is followed or compressed.

    Raises:
        UserError: the file cannot be read.
    """
    store = open_store(path, follow=follow)
    if follow or not isinstance(store, FileStore):
        return store
    further = _continuations(path, store)
    return JoinedStore(store, further) if further else store


def _continuations(path: Path, first: FileStore) -> list[Path]:
    """The files beside the first one that say they go on with it, in the order of their numbers."""
    header = _header(first)
    if header is None:
        return []
    name = re.compile(rf"{re.escape(stem_of(path))}\.(\d+){re.escape(ending_of(path))}")
    numbered = [(int(found[1]), each) for each in path.parent.iterdir() if (found := name.fullmatch(each.name))]
    return [each for _, each in sorted(numbered) if _goes_on(each, path.name, header)]


def _goes_on(path: Path, name: str, first: Header) -> bool:
    with suppress(UserError):
        store = FileStore(path)
        header = _header(store)
        store.close()
        return (
            header is not None
            and header.continues is not None
            and header.continues.file == name
            and (header.created, header.sampling) == (first.created, first.sampling)
        )
    return False


def _header(store: Store) -> Header | None:
    opening = _opening(store, 1)[1]
    return opening[0] if opening and isinstance(opening[0], Header) else None


def _opening(store: Store, number: int = 3) -> tuple[list[int], list[Event]]:
    """The first events of a file as far as they can be read, and the offsets of their lines and of the next."""
    lines, events = Lines(store), list[Event]()
    offsets = [0]
    with suppress(ValueError, RecursionError, msgspec.MsgspecError):
        while len(events) < number and (line := lines.next()) is not None:
            events.append(from_json(line.content))
            offsets.append(lines.offset)
    return offsets, events


def _dropped(opening: list[Event]) -> bool:
    return any(isinstance(event, State) and event.state == "dropped" for event in opening)
