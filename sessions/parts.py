"""A run whose recording goes on in further files, read as if it were one: docs/session-format.md, "Continuation"."""

from __future__ import annotations

import re
from bisect import bisect_right
from contextlib import suppress
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path

import msgspec

from routing.errors import UserError
from routing.events import Event, Header, Keyframe, State, from_json
from sessions.index import BLOCK, Tail, read_tail
from sessions.lines import Lines
from sessions.paths import ending_of, stem_of
from sessions.store import Spool, Store, open_store, open_whole


@dataclass(frozen=True, slots=True)
class _Part:
    """A stretch of one file's bytes, and its place in the whole."""

    store: Store
    skipped: int
    """Bytes at the file's beginning that are left out."""
    start: int
    """Offset of its first byte in the whole."""
    size: int
    anew: bool = False
    """What lies between it and the part before is missing."""


class JoinedStore:
    """The files of one run as one store: the first one, then what each other adds to it.

    Where something is missing between two of them, the later one begins with its keyframe, and `notes` say what.

    Args:
        first: the run's first file.
        further: those that go on with it, in order.
    """

    complete = True

    def __init__(self, first: Store, further: list[Store]) -> None:
        self.name = first.name
        self.notes: list[str] = []
        """What the person should know of the parts, one line each."""
        self._parts = [_Part(first, 0, 0, first.size())]
        for store in further:
            self._join(store)

    def size(self) -> int:
        return self._parts[-1].start + self._parts[-1].size

    def where(self, _line: int, offset: int, /) -> tuple[str, int]:
        part = self._part(offset)
        return part.store.name, 1 + _count_lines(part.store, part.skipped + offset - part.start)

    def begins_anew(self, offset: int, /) -> bool:
        part = self._part(offset)
        return part.anew and part.start == offset

    def read(self, start: int, length: int) -> bytes:
        pieces = []
        while length > 0 and start < self.size():
            part = self._part(start)
            inside = start - part.start
            pieces.append(part.store.read(part.skipped + inside, min(length, part.size - inside)))
            start, length = start + len(pieces[-1]), length - len(pieces[-1])
        return b"".join(pieces)

    def close(self) -> None:
        for part in self._parts:
            part.store.close()

    def _part(self, offset: int) -> _Part:
        return self._parts[max(0, bisect_right(self._parts, offset, key=attrgetter("start")) - 1)]

    def _join(self, store: Store) -> None:
        """Go on with a file, behind the last whole line of the one before it."""
        before = self._parts[-1]
        offsets, opening = _opening(store)
        keyframe = opening[1] if len(opening) > 1 else None
        tail = read_tail(before.store)
        here = _tokens(before.store, tail)
        if not isinstance(keyframe, Keyframe) or keyframe.i < here:
            self.notes.append(f"{store.name}: left out, for it does not go on after token {here}")
            store.close()
            return
        if keyframe.i > here:
            self.notes.append(f"{self.name}: tokens {here} to {keyframe.i - 1} are missing before {store.name}")
        elif _dropped(opening):
            self.notes.append(f"{self.name}: some events at token {here} are missing before {store.name}")
        anew = keyframe.i > here
        skipped = offsets[1 if anew else 2]
        self._parts[-1] = replace(before, size=tail.end - before.skipped)
        start = before.start + self._parts[-1].size
        self._parts.append(_Part(store, skipped, start, store.size() - skipped, anew))


def open_run(path: Path, *, follow: bool = False) -> Store:
    """The bytes of a session file, and of those that go on with it unless it is followed.

    Raises:
        UserError: the file cannot be read.
    """
    store = open_store(path, follow=follow)
    beside = [] if follow else _beside(path)
    if not beside:
        return store
    if isinstance(store, Spool):
        store.wait()
    further = _continuations(path, store, beside)
    return JoinedStore(store, further) if further else store


def _beside(path: Path) -> list[Path]:
    """The files in the same folder that have the name of one that goes on with this one, by their numbers."""
    name = re.compile(rf"{re.escape(stem_of(path))}\.(\d+){re.escape(ending_of(path))}")
    with suppress(OSError):  # a folder that may not be listed
        numbered = [(int(found[1]), each) for each in path.parent.iterdir() if (found := name.fullmatch(each.name))]
        return [each for _, each in sorted(numbered)]
    return []


def _continuations(path: Path, first: Store, beside: list[Path]) -> list[Store]:
    """Those of the files that say they go on with the first one."""
    header = _header(first)
    opened = [] if header is None else [_opened_if(each, path.name, header) for each in beside]
    return [store for store in opened if store is not None]


def _opened_if(path: Path, name: str, first: Header) -> Store | None:
    """A file, if it says that it goes on with the run whose first file has this name and header."""
    with suppress(UserError):
        store = open_whole(path)
        header = _header(store)
        if (
            header is not None
            and header.continues is not None
            and header.continues.file == name
            and (header.created, header.sampling) == (first.created, first.sampling)
        ):
            return store
        store.close()
    return None


def _tokens(store: Store, tail: Tail) -> int:
    """Tokens of the run up to a file's end."""
    if tail.last is not None:
        return tail.last.i + 1
    opening = _opening(store, 2)[1]
    return opening[1].i if len(opening) > 1 and isinstance(opening[1], Keyframe) else 0


def _count_lines(store: Store, end: int) -> int:
    """Lines that end before an offset."""
    return sum(store.read(at, min(BLOCK, end - at)).count(b"\n") for at in range(0, end, BLOCK))


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
