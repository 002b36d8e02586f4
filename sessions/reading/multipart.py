"""A run whose recording goes on in further files, read as if it were one: docs/session-format.md, "Continuation"."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path

import msgspec

from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Event, Header, Keyframe, State, from_json
from moe_watch.sessions.paths import ending_of, stem_of
from moe_watch.sessions.reading.index import BLOCK, Tail, read_tail
from moe_watch.sessions.reading.lines import Lines
from moe_watch.sessions.reading.reader import SessionReader
from moe_watch.sessions.reading.store import Spool, Store, open_store, open_whole

OPENING = 3
"""Lines that tell what a part is: its header, its keyframe, and whether something is missing before it."""
MAX_PARTS = 200
"""Further files of one run, at most. Each is held open while the run is read; systems allow some 250 to 1,000."""
NAMED = 3
"""Files that a note names; further ones with the same reason are counted."""
THE_RUN = ("created", "sampling", "model", "units", "chunk_size", "pressure")
"""Fields of a header without which a file is no part of a run: another run's, or events that mean something else."""


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


@dataclass(frozen=True, slots=True)
class Opening:
    """How a file begins, as far as it can be read."""

    header: Header | None
    keyframe: Keyframe | None
    """Behind the header, with the run's state there."""
    dropped: bool
    """It says behind that that events are in no file."""
    offsets: tuple[int, ...]
    """Of these lines, and of the next one."""


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
        self._header = read_opening(first).header
        self._parts = [_Part(first, 0, 0, first.size())]
        self._left_out: dict[str, list[str]] = {}
        """Names of files that are not read, by the reason."""
        for store in further:
            self._join(store)
        self.notes[:0] = [_left_out_note(names, why) for why, names in self._left_out.items()]

    @property
    def files(self) -> list[str]:
        """Names of the files that are read."""
        return [part.store.name for part in self._parts]

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
        before, opening = self._parts[-1], read_opening(store)
        tail = read_tail(before.store)
        here = _tokens(before.store, tail)
        if others := self._others(opening.header):
            self._leave_out(store, f"its header differs in {', '.join(others)}")
        elif opening.keyframe is None or opening.keyframe.i < here:
            self._leave_out(store, f"it does not go on after token {here}")
        else:
            self._parts[-1] = replace(before, size=tail.end - before.skipped)
            self._append(store, opening, missing=range(here, opening.keyframe.i))

    def _append(self, store: Store, opening: Opening, missing: range) -> None:
        """Go on with a file before which these tokens are missing."""
        if missing:
            tokens = f"tokens {missing[0]} to {missing[-1]}"
            self.notes.append(f"{self.name}: {tokens} are missing before {store.name}")
        elif opening.dropped:
            self.notes.append(f"{self.name}: some events at token {missing.start} are missing before {store.name}")
        skipped = opening.offsets[1 if missing else 2]
        self._parts.append(_Part(store, skipped, self.size(), store.size() - skipped, anew=bool(missing)))

    def _others(self, header: Header | None) -> list[str]:
        """Which of the fields that tell a run are others in a file's header."""
        if header is None or self._header is None:
            return []
        return [name for name in differing_fields(self._header, header) if name in THE_RUN]

    def _leave_out(self, store: Store, why: str) -> None:
        self._left_out.setdefault(why, []).append(store.name)
        store.close()


def _left_out_note(names: Sequence[str], why: str) -> str:
    """Return one line for all files that are left out for one reason."""
    more = f" and {len(names) - NAMED:,} more files" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more}: left out, for {why}"


class RunReader(SessionReader):
    """The events of a run from all its files, the first one's header first.

    Args:
        path: the run's first file. A later one is read alone, and `notes` say so.

    Raises:
        UserError: as for any session, with the name of the file and the line in it.
    """

    def __init__(self, path: Path) -> None:
        store = open_run(path)
        if isinstance(store, Spool):
            store.wait()
        super().__init__(store)
        self.notes = [*_said_of_joining(store), *_said_of_a_part(path, self.header)]
        """What the person should know of the run's files, one line each; empty if it has but one."""

    @property
    def warnings(self) -> list[str]:
        """What the person should know of what was read so far, one line each."""
        return [*self.notes, *([self.torn] if self.torn else [])]


def open_run(path: Path, *, follow: bool = False) -> Store:
    """The bytes of a session file, and of those that go on with it unless it is followed.

    Raises:
        UserError: the file cannot be read.
    """
    store = open_store(path, follow=follow)
    beside = [] if follow else numbered_beside(path)
    if not beside:
        return store
    if isinstance(store, Spool):
        store.wait()
    further = _continuations(path, store, beside)
    return JoinedStore(store, further) if further else store


def numbered_beside(path: Path) -> list[Path]:
    """The files in the same folder that have the name of one that goes on with this one, by their numbers."""
    name = re.compile(rf"{re.escape(stem_of(path))}\.(\d+){re.escape(ending_of(path))}")
    with suppress(OSError):  # a folder that may not be listed
        numbered = [(int(found[1]), each) for each in path.parent.iterdir() if (found := name.fullmatch(each.name))]
        return [each for _, each in sorted(numbered)]
    return []


def _continuations(path: Path, first: Store, beside: list[Path]) -> list[Store]:
    """Those of the files that say they go on with the first one."""
    header = read_opening(first).header
    if header is None:
        return []
    opened: list[Store] = []
    for each in beside:
        if (store := _opened_if(each, path.name, header)) is not None:
            opened.append(store)
        if len(opened) > MAX_PARTS:
            for store in (first, *opened):
                store.close()
            raise too_many_parts(path)
    return opened


def too_many_parts(path: Path) -> UserError:
    """Return the refusal of a run of more files than a recording can have."""
    return UserError(
        f"{path}: more than {MAX_PARTS} files say that they continue it",
        advice="move away the files that are not part of it, or give one of them alone",
    )


def _opened_if(path: Path, name: str, first: Header) -> Store | None:
    """A file, if it says that it goes on with the run whose first file has this name and was begun then."""
    with suppress(UserError):
        store = open_whole(path)
        header = read_opening(store).header
        if header is not None and goes_on_with(header, name, first):
            return store
        store.close()
    return None


def goes_on_with(part: Header, name: str, first: Header) -> bool:
    """Whether a file says that it goes on with the run whose first file has this name and header.

    One of the same name that was begun at another time is left from an earlier run.
    """
    return part.continues is not None and part.continues.file == name and part.created == first.created


def differing_fields(first: Header, part: Header) -> list[str]:
    """What differs between the headers of two files of a run, `continues` aside, which has to."""
    names = (name for name in first.__struct_fields__ if name != "continues")
    return [name for name in names if getattr(first, name) != getattr(part, name)]


def _said_of_joining(store: Store) -> list[str]:
    if not isinstance(store, JoinedStore):
        return []
    files = store.files
    last = Path(files[-1]).name
    read = [f"{files[0]}: {len(files)} parts are read as one recording, up to {last}"] if len(files) > 1 else []
    return read + store.notes


def _said_of_a_part(path: Path, header: Header) -> list[str]:
    """That a file is a later part of a run, and where the first one is."""
    before = header.continues
    if before is None:
        return []
    first = shown(before.file)
    where = f"give {first} for the whole run" if _is_beside(path, header) else f"{first} is not there any more"
    return [f"{path}: goes on at token {before.i} with what {first} began, read alone; {where}"]


def _is_beside(path: Path, part: Header) -> bool:
    """Whether the first file of a part's run lies in its folder."""
    assert part.continues is not None
    name = part.continues.file
    if Path(name).name != name:
        return False
    with suppress(UserError), closing(open_whole(path.parent / name)) as store:
        header = read_opening(store).header
        return header is not None and goes_on_with(part, name, header)
    return False


def shown(name: str) -> str:
    """A name that a file gives, so that it can be shown on a line."""
    return name if name.isprintable() else ascii(name)


def _tokens(store: Store, tail: Tail) -> int:
    """Tokens of the run up to a file's end."""
    if tail.last is not None:
        return tail.last.i + 1
    keyframe = read_opening(store).keyframe
    return 0 if keyframe is None else keyframe.i


def _count_lines(store: Store, end: int) -> int:
    """Lines that end before an offset."""
    return sum(store.read(at, min(BLOCK, end - at)).count(b"\n") for at in range(0, end, BLOCK))


def read_opening(store: Store) -> Opening:
    """How a file begins."""
    lines, offsets, events = Lines(store), [0], list[Event]()
    with suppress(ValueError, RecursionError, msgspec.MsgspecError):
        while len(events) < OPENING and (line := lines.next()) is not None:
            events.append(from_json(line.content))
            offsets.append(lines.offset)
    header, keyframe, after = [*events, *[None] * OPENING][:OPENING]
    return Opening(
        header=header if isinstance(header, Header) else None,
        keyframe=keyframe if isinstance(keyframe, Keyframe) else None,
        dropped=isinstance(after, State) and after.state == "dropped",
        offsets=tuple(offsets),
    )
