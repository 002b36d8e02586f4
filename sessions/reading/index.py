"""Line index of a session file: byte offset and kind of every line, from the line's first bytes.

The index checks nothing: it takes a line for the kind of its first bytes, and the reader checks the content.

Indexing a file of gigabytes takes a second or more, so it can be done in steps. Until the index is complete, the last
token is read from the file's last bytes.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

import msgspec
from msgspec import UNSET

from moe_watch.routing.events import Change, Chunk, Event, Marker, Perturbation, from_json
from moe_watch.sessions.reading import line_reader as lines
from moe_watch.sessions.reading.line_grammar import BLANK as BLANK
from moe_watch.sessions.reading.line_grammar import GARBAGE as GARBAGE
from moe_watch.sessions.reading.line_grammar import KEYFRAME as KEYFRAME
from moe_watch.sessions.reading.line_grammar import (
    POSITION_BYTES,
    TOKEN_HEAD,
    decoded_position,
    kind_of,
    position_of,
    quick_position,
)
from moe_watch.sessions.reading.line_grammar import TOKEN as TOKEN
from moe_watch.sessions.reading.line_grammar import VITALS as VITALS
from moe_watch.sessions.reading.line_grammar import EventPosition as EventPosition
from moe_watch.sessions.reading.store import Store
from moe_watch.sessions.reading.validation import check_alone

BLOCK = 1 << 20
"""Bytes indexed in one step, which takes a millisecond or two."""

MOST_LANDMARKS = 1 << 20
"""Landmarks that are kept."""
MOST_LANDMARK_BYTES = 1 << 28
"""Total bytes of the landmarks' lines. A run of a million tokens has 50,000 chunks, 45 MB in total."""
MANY_LINES = 1 << 20
"""Number of lines above which indexing stops if they have less than `LEAST_AVERAGE` bytes on average."""
LEAST_AVERAGE = 16
"""Least average length of these lines, in bytes: no event is shorter."""

MOST_TAIL_LINES = 1 << 16
"""Lines at the end of a file that are searched for the last token."""

_SKIPPED = frozenset({TOKEN, KEYFRAME, VITALS, GARBAGE, BLANK})
"""Kinds that are no landmarks."""


class LineIndex:
    """Index of a store's whole lines; `extend` adds the lines written since.

    Lines are counted from 0, the header being line 0. A last line without its newline is not indexed.

    Args:
        store: the session's bytes. Its first line is the header.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._ends = array("q", [0])
        """Entry n is the offset of line n; the last entry is the offset of the next line to come."""
        self._kinds = bytearray()
        self.behind = True
        """The store may have lines that are not indexed yet."""
        self._tail: Tail | None = None
        self._stuck = False
        """A line is longer than the limit, or too many are too short: the lines after it are not indexed."""
        self._landmarks: list[Event] = []
        """All readable events other than tokens, keyframes and vitals."""
        self._landmark_lines = array("q")
        """Line of each landmark."""
        self._landmark_bytes = 0
        self.chunks: list[Chunk] = []
        """The chunks among the landmarks."""
        self.marks: list[Marker] = []
        self.perturbations: list[Perturbation] = []
        self.masks: list[Change] = []
        """Changes of the mask among the landmarks."""

    @property
    def lines(self) -> int:
        """Number of whole lines so far."""
        return len(self._kinds)

    @property
    def size(self) -> int:
        """Size of all whole lines in bytes."""
        return self._tail.end if self._tail is not None and self.behind else self._ends[-1]

    def start_of(self, line: int) -> int:
        """Return the offset of a line; of line `lines`, that of the next line to come; of later lines, the end."""
        return self._ends[line] if line < len(self._ends) else self._store.size()

    def extend(self, enough: Callable[[], bool] = lambda: False) -> None:
        """Index the lines that are whole by now, from the first one that is not indexed yet.

        Args:
            enough: called after every block; if it returns True, indexing stops there and `behind` stays True.

        Raises:
            UserError: the store cannot be read.
        """
        size, length, begun = self._store.size(), BLOCK, False
        self.behind = False
        while not self._stuck and (start := self._ends[-1]) < size:
            if begun and length == BLOCK and enough():
                self.behind = True
                return
            begun = True
            block = self._store.read(start, min(length, size - start))
            if self._take(block, start):
                length = BLOCK
                self._stuck = self.lines > MANY_LINES and self._ends[-1] < LEAST_AVERAGE * self.lines
            elif start + len(block) >= size:
                break
            else:
                length *= 2
                self._stuck = length > 2 * lines.MAX_LINE
        self._tail = None

    def _take(self, block: bytes, base: int) -> int:
        """Index the whole lines of a block that starts with a line; return their size in bytes."""
        ends, kinds, head, position = self._ends, self._kinds, TOKEN_HEAD, 0
        while (end := block.find(b"\n", position)) >= 0:
            is_token = block.startswith(head, position)  # nearly all are
            kinds.append(TOKEN if is_token else self._note(block[position:end]))
            position = end + 1
            ends.append(base + position)
        return position

    def _note(self, line: bytes) -> int:
        """Keep the event of a line if it is a landmark; return the kind of the line."""
        kind = kind_of(line)
        if kind in _SKIPPED or not self._kinds or not self._has_room(line):
            return kind
        with suppress(ValueError, RecursionError, msgspec.MsgspecError):
            event = from_json(line)
            check_alone(event)
            self._landmarks.append(event)
            self._landmark_lines.append(self.lines)
            if isinstance(event, Chunk):
                self.chunks.append(event)
            elif isinstance(event, Marker):
                self.marks.append(event)
            elif isinstance(event, Perturbation):
                self.perturbations.append(event)
            elif isinstance(event, Change) and event.mask is not UNSET:
                self.masks.append(event)
        return kind

    def _has_room(self, line: bytes) -> bool:
        """Return whether one more landmark may be kept, so that no file can fill the memory with them."""
        self._landmark_bytes += len(line)
        return len(self._landmarks) < MOST_LANDMARKS and self._landmark_bytes <= MOST_LANDMARK_BYTES

    # -- queries

    def kind(self, line: int) -> int:
        """Return the kind of a line."""
        return self._kinds[line]

    def before(self, kind: int, line: int) -> int:
        """Return the last line of a kind before this one, or -1."""
        return self._kinds.rfind(kind, 0, max(0, line))

    def after(self, kind: int, line: int) -> int:
        """Return the first line of a kind from this one on, or `lines`."""
        found = self._kinds.find(kind, line)
        return self.lines if found < 0 else found

    def last(self, kind: int, number: int, line: int) -> list[int]:
        """Return the last `number` lines of a kind before this one, ascending."""
        found: list[int] = []
        while len(found) < number and (line := self.before(kind, line)) >= 0:
            found.append(line)
        return found[::-1]

    def count(self, kind: int, line: int) -> int:
        """Return the number of lines of a kind before this one."""
        return self._kinds.count(kind, 0, line)

    def line(self, number: int) -> bytes:
        """Return a line without its newline."""
        start = self._ends[number]
        return self._store.read(start, self._ends[number + 1] - start).rstrip(b"\r\n")

    def landmarks_before(self, line: int) -> list[Event]:
        """Return the chunks, markers, injections and states on the lines before this one, in order."""
        return self._landmarks[: bisect_left(self._landmark_lines, line)]

    def place(self, line: int) -> EventPosition | None:
        """Return the position of a line's event, None if it has none."""
        start = self._store.read(self._ends[line], POSITION_BYTES)
        return quick_position(start) or decoded_position(self.line(line))

    def token_line(self, i: float) -> int:
        """Return the line of the first token with index `i` or a larger one, or `lines`."""
        return self._bisect(lambda place: place.i >= i)

    def time_line(self, seconds: float) -> int:
        """Return the line of the first token later than this, or `lines`. Assumes that times ascend."""
        return self._bisect(lambda place: place.t > seconds)

    def extent(self) -> tuple[EventPosition, EventPosition] | None:
        """Return the positions of the first and the last token, if there are any; also while the index is behind."""
        first, last = self._token_place(0, self.lines)[1], self._last_of_all()
        return None if first is None or last is None else (first, last)

    def _last_of_all(self) -> EventPosition | None:
        if not self.behind:
            return self.last_token()
        if self._tail is None:
            self._tail = read_tail(self._store)
        return self._tail.last or self.last_token()

    def last_token(self) -> EventPosition | None:
        """Return the position of the last indexed token that has one."""
        line, place = self.lines, None
        while place is None and (line := self.before(TOKEN, line)) >= 0:
            place = self.place(line)
        return place

    @property
    def end(self) -> int:
        """Index after that of the last indexed token."""
        last = self.last_token()
        return 0 if last is None else last.i + 1

    def _bisect(self, reached: Callable[[EventPosition], bool]) -> int:
        """Return the line of the first token for which this is true; it must then be true for all later tokens."""
        low, high = 0, self.lines
        while low < high:
            middle = (low + high) // 2
            line, place = self._token_place(middle, high)
            if place is None or reached(place):
                high = middle
            else:
                low = line + 1
        return self.after(TOKEN, low)

    def _token_place(self, line: int, end: int) -> tuple[int, EventPosition | None]:
        """Return line and position of the first token from `line` on and before `end` that has a position."""
        place = None
        while (line := self.after(TOKEN, line)) < end and (place := self.place(line)) is None:
            line += 1
        return line, place


@dataclass(frozen=True, slots=True)
class Tail:
    """End of a store."""

    end: int
    """Offset after its last whole line."""
    last: EventPosition | None
    """Position of the last token that has one; None if the last megabytes have none."""


def read_tail(store: Store) -> Tail:
    """Read the end of a store from its last bytes.

    Raises:
        UserError: the store cannot be read.
    """
    size, length = store.size(), BLOCK
    while True:
        start = max(0, size - length)
        block = store.read(start, size - start)
        end = block.rfind(b"\n") + 1
        last = _last_place(block[:end], whole=not start)
        if last is not None or not start or length > 2 * lines.MAX_LINE:
            return Tail(start + end, last)
        length *= 4


def _last_place(block: bytes, *, whole: bool) -> EventPosition | None:
    """Return the position of the last token in a block.

    Args:
        block: the last bytes of a store.
        whole: the block starts with a whole line.
    """
    for line in islice(_backwards(block, whole=whole), MOST_TAIL_LINES):
        if kind_of(line) == TOKEN and (place := position_of(line)) is not None:
            return place
    return None


def _backwards(block: bytes, *, whole: bool) -> Iterator[bytes]:
    """Yield the lines of a block, the last one first. A list of a megabyte of empty lines would take 60 MB."""
    end = len(block)
    while (begin := block.rfind(b"\n", 0, end)) >= 0:
        yield block[begin + 1 : end]
        end = begin
    if whole:
        yield block[:end]
