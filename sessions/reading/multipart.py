"""Reader of a multi-part session: joins the files of one run. docs/session-format.md, "Continuation"."""

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
from moe_watch.sessions.reading.line_reader import Lines
from moe_watch.sessions.reading.reader import SessionReader
from moe_watch.sessions.reading.store import Spool, Store, open_store, open_whole

OPENING = 3
"""First lines of a continuation file: header, keyframe, and a `dropped` state if events are missing before it."""
MAX_PARTS = 200
"""Maximum number of continuation files. Each stays open while the run is read; systems allow 250 to 1,000."""
NAMED = 3
"""Number of files that a note names; further ones with the same reason are counted."""
THE_RUN = ("created", "sampling", "model", "units", "chunk_size", "pressure")
"""Header fields that are equal in all files of a run. A difference means another run, or events in other units."""


@dataclass(frozen=True, slots=True)
class _Part:
    """One file's share of the joined bytes."""

    store: Store
    skipped: int
    """Number of bytes at the file's start that are not part of the joined bytes."""
    start: int
    """Offset of its first byte in the joined bytes."""
    size: int
    after_gap: bool = False
    """Tokens are missing between the file before and this one."""


@dataclass(frozen=True, slots=True)
class Opening:
    """First lines of a file, as far as they can be read."""

    header: Header | None
    keyframe: Keyframe | None
    """Second line of a continuation file: the run's state there."""
    dropped: bool
    """The third line is a state `dropped`: some events are in no file."""
    offsets: tuple[int, ...]
    """Offsets of these lines, and of the next one."""


class JoinedStore:
    """Store that joins the files of one run: the first file, then the new lines of each continuation file.

    If tokens are missing between two files, the lines of the later one begin with its keyframe, and `notes` report it.

    Args:
        first: the run's first file.
        further: its continuation files, in order.
    """

    complete = True

    def __init__(self, first: Store, further: list[Store]) -> None:
        self.name = first.name
        self.notes: list[str] = []
        """Warnings about the files for the user, one line each."""
        self._header = read_opening(first).header
        self._parts = [_Part(first, 0, 0, first.size())]
        self._left_out: dict[str, list[str]] = {}
        """Names of files that are not read, by reason."""
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

    def follows_gap(self, offset: int, /) -> bool:
        part = self._part(offset)
        return part.after_gap and part.start == offset

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
        """Append a file after the last whole line of the one before it."""
        before, opening = self._parts[-1], read_opening(store)
        tail = read_tail(before.store)
        here = _tokens(before.store, tail)
        if others := self._others(opening.header):
            self._leave_out(store, f"header differs in {', '.join(others)}")
        elif opening.keyframe is None or opening.keyframe.i < here:
            self._leave_out(store, f"does not continue after token {here}")
        else:
            self._parts[-1] = replace(before, size=tail.end - before.skipped)
            self._append(store, opening, missing=range(here, opening.keyframe.i))

    def _append(self, store: Store, opening: Opening, missing: range) -> None:
        """Append a file; `missing` are the tokens missing before it."""
        if missing:
            tokens = f"tokens {missing[0]} to {missing[-1]}"
            self.notes.append(f"{self.name}: {tokens} are missing before {store.name}")
        elif opening.dropped:
            self.notes.append(f"{self.name}: some events at token {missing.start} are missing before {store.name}")
        skipped = opening.offsets[1 if missing else 2]
        self._parts.append(_Part(store, skipped, self.size(), store.size() - skipped, after_gap=bool(missing)))

    def _others(self, header: Header | None) -> list[str]:
        """Return the fields of `THE_RUN` that differ in a file's header."""
        if header is None or self._header is None:
            return []
        return [name for name in differing_fields(self._header, header) if name in THE_RUN]

    def _leave_out(self, store: Store, why: str) -> None:
        self._left_out.setdefault(why, []).append(store.name)
        store.close()


def _left_out_note(names: Sequence[str], why: str) -> str:
    """Return one line for all files that are skipped for one reason."""
    more = f" and {len(names) - NAMED:,} more files" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more}: skipped ({why})"


class RunReader(SessionReader):
    """Reader of the events of a run from all its files; the header is the first file's.

    Args:
        path: the run's first file. A continuation file is read alone, and `notes` report that.

    Raises:
        UserError: as `SessionReader`, with the name of the file and the line in it.
    """

    def __init__(self, path: Path) -> None:
        store = open_run(path)
        if isinstance(store, Spool):
            store.wait()
        super().__init__(store)
        self.notes = [*_notes_of_joining(store), *_notes_of_part(path, self.header)]
        """Warnings about the run's files for the user, one line each; empty for a session of one file."""

    @property
    def warnings(self) -> list[str]:
        """Warnings about the lines read so far, one line each."""
        return [*self.notes, *([self.torn] if self.torn else [])]


def open_run(path: Path, *, follow: bool = False) -> Store:
    """Open a session file, joined with its continuation files unless it is followed.

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
    """Return the files of the folder that are named as continuation files of this one, by their numbers."""
    name = re.compile(rf"{re.escape(stem_of(path))}\.(\d+){re.escape(ending_of(path))}")
    with suppress(OSError):  # the folder may not be listable
        numbered = [(int(found[1]), each) for each in path.parent.iterdir() if (found := name.fullmatch(each.name))]
        return [each for _, each in sorted(numbered)]
    return []


def _continuations(path: Path, first: Store, beside: list[Path]) -> list[Store]:
    """Open the files that continue the first one, by their headers."""
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
    """Return the error for a run with more files than a recording can have."""
    return UserError(
        f"{path}: more than {MAX_PARTS} files continue it, by their headers",
        advice="move files of other sessions to another folder, or name a continuation file to read it alone",
    )


def _opened_if(path: Path, name: str, first: Header) -> Store | None:
    """Open a file if it continues, by its header, the run with this first file."""
    with suppress(UserError):
        store = open_whole(path)
        header = read_opening(store).header
        if header is not None and continues_run(header, name, first):
            return store
        store.close()
    return None


def continues_run(part: Header, name: str, first: Header) -> bool:
    """Return whether a header continues the run whose first file has this name and header.

    A file with another time of creation was left by an earlier run of the same name.
    """
    return part.continues is not None and part.continues.file == name and part.created == first.created


def differing_fields(first: Header, part: Header) -> list[str]:
    """Return the fields that differ between the headers of two files of a run, `continues` excepted."""
    names = (name for name in first.__struct_fields__ if name != "continues")
    return [name for name in names if getattr(first, name) != getattr(part, name)]


def _notes_of_joining(store: Store) -> list[str]:
    if not isinstance(store, JoinedStore):
        return []
    files = store.files
    last = Path(files[-1]).name
    read = [f"{files[0]}: {len(files)} files are read as one session, up to {last}"] if len(files) > 1 else []
    return read + store.notes


def _notes_of_part(path: Path, header: Header) -> list[str]:
    """Return a warning for a continuation file that is read alone, with the state of its first file."""
    before = header.continues
    if before is None:
        return []
    first = shown(before.file)
    advice = f"open {first} for the whole run" if first_of(path, header) else f"{first} is missing"
    return [f"{path}: continuation file of {first} from token {before.i}, read alone; {advice}"]


def first_of(path: Path, part: Header) -> Opening | None:
    """Return the opening of a continuation file's first file, None if that is not in the same folder.

    Args:
        path: the continuation file.
        part: its header.
    """
    name = "" if part.continues is None else part.continues.file
    if not name or Path(name).name != name:
        return None
    with suppress(UserError), closing(open_whole(path.parent / name)) as store:
        opening = read_opening(store)
        if opening.header is not None and continues_run(part, name, opening.header):
            return opening
    return None


def shown(name: str) -> str:
    """Return a file name from a header in a form that is safe to print on one line."""
    return name if name.isprintable() else ascii(name)


def _tokens(store: Store, tail: Tail) -> int:
    """Return the number of tokens of the run up to a file's end."""
    if tail.last is not None:
        return tail.last.i + 1
    keyframe = read_opening(store).keyframe
    return 0 if keyframe is None else keyframe.i


def _count_lines(store: Store, end: int) -> int:
    """Return the number of lines that end before an offset."""
    return sum(store.read(at, min(BLOCK, end - at)).count(b"\n") for at in range(0, end, BLOCK))


def read_opening(store: Store) -> Opening:
    """Read the first lines of a file."""
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
