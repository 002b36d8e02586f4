"""Where things lie in a session file: every line's place and kind, told by its first bytes.

Nothing is judged here: a line is taken for what it begins like, and what it holds is checked when it is read.

Finding all lines of a file of gigabytes takes a second or more, so it can be done a little at a time. Until it is
done, the file's end is known from its last bytes.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from math import isfinite

import msgspec

from moe_watch.routing.events import Chunk, Event, Marker, Perturbation, from_json
from moe_watch.sessions.reading import lines
from moe_watch.sessions.reading.store import Store
from moe_watch.sessions.reading.validation import check_alone

BLOCK = 1 << 20
"""Bytes that are looked through at once, in a millisecond or two."""

TOKEN, KEYFRAME, VITALS, CHUNK, PERTURBATION, MARKER, OTHER, GARBAGE, BLANK = b"TKVCPMO?-"
"""Kinds of lines, by what they hold."""

MOST_LANDMARKS = 1 << 20
MOST_LANDMARK_BYTES = 1 << 28
"""Of their lines. A run of a million tokens has 50,000 chunks of 45 MB in all."""
MANY_LINES = 1 << 20
LEAST_AVERAGE = 16
"""Bytes that so many lines have on average, at least: no event is shorter."""

MOST_TAIL_LINES = 1 << 16
"""That are looked through for the last token."""

_KINDS = {
    "token": TOKEN,
    "keyframe": KEYFRAME,
    "vitals": VITALS,
    "chunk": CHUNK,
    "perturbation": PERTURBATION,
    "marker": MARKER,
    "refused": OTHER,
    "warning": OTHER,
    "state": OTHER,
    "cost": OTHER,
    "change": OTHER,
    "fork": OTHER,
}
_HEAD = 16
"""Bytes that tell the events apart, as our own writer begins them."""
_SKIPPED = frozenset({TOKEN, KEYFRAME, VITALS, GARBAGE, BLANK})
"""Kinds that are no landmarks."""
_TOKEN_HEAD = b'{"event":"token"'
_HEADS = {f'{{"event":"{name}",'.encode()[:_HEAD]: kind for name, kind in _KINDS.items()}


_PLACE = re.compile(rb'\{"event":"(?:token","i":(\d{1,16}),"t":(\d{1,9}(?:\.\d{1,9})?)|keyframe","i":(\d{1,16})),')
_PLACE_BYTES = 80
"""Of a line of our own writer's, enough to find its place without looking at the rest."""


class _EventKind(msgspec.Struct):
    event: str


class EventPosition(msgspec.Struct):
    """The little of a token, or of another event, that says where in the run it is."""

    i: int
    t: float = 0.0


class LineIndex:
    """Places and kinds of a store's whole lines; `extend` takes in what was added since.

    Lines are counted from 0, the header being line 0. A last line without its end is not among them.

    Args:
        store: the session's bytes. Its first line is the header.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._ends = array("q", [0])
        """Where line n begins; the last one is where the next line to come begins."""
        self._kinds = bytearray()
        self.behind = True
        """There may be lines that were not looked at yet."""
        self._tail: Tail | None = None
        self._stuck = False
        """A line is longer than any may be, or too many are shorter: what comes after it is not looked at."""
        self._landmarks: list[Event] = []
        """All that is no token, keyframe or reading of the machine, as far as it can be read."""
        self._landmark_lines = array("q")
        self._landmark_bytes = 0
        self.chunks: list[Chunk] = []
        """Those of the landmarks that are chunks."""
        self.marks: list[Marker] = []
        self.perturbations: list[Perturbation] = []

    @property
    def lines(self) -> int:
        """Whole lines so far."""
        return len(self._kinds)

    @property
    def size(self) -> int:
        """Bytes of all whole lines."""
        return self._tail.end if self._tail is not None and self.behind else self._ends[-1]

    def start_of(self, line: int) -> int:
        """Offset of a line's first byte; of `lines`, that of the line to come; of later ones, the end."""
        return self._ends[line] if line < len(self._ends) else self._store.size()

    def extend(self, enough: Callable[[], bool] = lambda: False) -> None:
        """Take in all lines that are whole by now, or some of them: asked again, it goes on behind those.

        Args:
            enough: asked after every block; where it is true, the rest is left for later, and `behind` is.

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
        """Note the whole lines in a block that begins with a line; returns how many bytes they take."""
        ends, kinds, position = self._ends, self._kinds, 0
        while (end := block.find(b"\n", position)) >= 0:
            is_token = block.startswith(_TOKEN_HEAD, position)  # nearly all are
            kinds.append(TOKEN if is_token else self._note(block[position:end]))
            position = end + 1
            ends.append(base + position)
        return position

    def _note(self, line: bytes) -> int:
        """Keep what a line holds if it is a landmark; returns the line's kind."""
        kind = _HEADS.get(line[:_HEAD]) or _kind(line)
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
        return kind

    def _has_room(self, line: bytes) -> bool:
        """Whether one more landmark may be kept; of a file that was made to fill memory, the rest is not."""
        self._landmark_bytes += len(line)
        return len(self._landmarks) < MOST_LANDMARKS and self._landmark_bytes <= MOST_LANDMARK_BYTES

    # -- finding

    def kind(self, line: int) -> int:
        """What a line holds."""
        return self._kinds[line]

    def before(self, kind: int, line: int) -> int:
        """The last line of a kind before this one, or -1."""
        return self._kinds.rfind(kind, 0, max(0, line))

    def after(self, kind: int, line: int) -> int:
        """The first line of a kind from this one on, or `lines`."""
        found = self._kinds.find(kind, line)
        return self.lines if found < 0 else found

    def last(self, kind: int, number: int, line: int) -> list[int]:
        """The last `number` lines of a kind before this one, ascending."""
        found: list[int] = []
        while len(found) < number and (line := self.before(kind, line)) >= 0:
            found.append(line)
        return found[::-1]

    def count(self, kind: int, line: int) -> int:
        """How many lines of a kind there are before this one."""
        return self._kinds.count(kind, 0, line)

    def line(self, number: int) -> bytes:
        """A line's bytes without its end."""
        start = self._ends[number]
        return self._store.read(start, self._ends[number + 1] - start).rstrip(b"\r\n")

    def landmarks_before(self, line: int) -> list[Event]:
        """Chunks, marks, injections and states on the lines before this one, in order."""
        return self._landmarks[: bisect_left(self._landmark_lines, line)]

    def place(self, line: int) -> EventPosition | None:
        """Where in the run a line's event is, if it says."""
        return _quick_place(self._store.read(self._ends[line], _PLACE_BYTES)) or _slow_place(self.line(line))

    def token_line(self, i: float) -> int:
        """The line of the first token whose index is `i` or more, or `lines`."""
        return self._bisect(lambda place: place.i >= i)

    def time_line(self, seconds: float) -> int:
        """The line of the first token later than this, or `lines`. Times are taken to ascend."""
        return self._bisect(lambda place: place.t > seconds)

    def extent(self) -> tuple[EventPosition, EventPosition] | None:
        """The places of the first and the last token, if there are any. Known also while the index is behind."""
        first, last = self._token_place(0, self.lines)[1], self._last_of_all()
        return None if first is None or last is None else (first, last)

    def _last_of_all(self) -> EventPosition | None:
        if not self.behind:
            return self.last_token()
        if self._tail is None:
            self._tail = read_tail(self._store)
        return self._tail.last or self.last_token()

    def last_token(self) -> EventPosition | None:
        """The place of the last token, among the lines found so far, that says where it is."""
        line, place = self.lines, None
        while place is None and (line := self.before(TOKEN, line)) >= 0:
            place = self.place(line)
        return place

    @property
    def end(self) -> int:
        """The index behind that of the last token, among the lines found so far."""
        last = self.last_token()
        return 0 if last is None else last.i + 1

    def _bisect(self, reached: Callable[[EventPosition], bool]) -> int:
        """The line of the first token for which this holds, given that it then holds for all later ones."""
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
        """The first token from a line on, before another, that says where it is."""
        place = None
        while (line := self.after(TOKEN, line)) < end and (place := self.place(line)) is None:
            line += 1
        return line, place


@dataclass(frozen=True, slots=True)
class Tail:
    """How a store ends."""

    end: int
    """Offset behind its last whole line."""
    last: EventPosition | None
    """Of the last token that says where it is; None if none does in its last megabytes."""


def read_tail(store: Store) -> Tail:
    """The end of a store, found from its last bytes.

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
    """Of the last token among the last lines of a block, whose first line is cut off unless it is the whole."""
    for line in islice(_backwards(block, whole=whole), MOST_TAIL_LINES):
        is_token = line.startswith(_TOKEN_HEAD) or (_HEADS.get(line[:_HEAD]) or _kind(line)) == TOKEN
        if is_token and (place := _quick_place(line) or _slow_place(line)) is not None:
            return place
    return None


def _backwards(block: bytes, *, whole: bool) -> Iterator[bytes]:
    """The lines of a block, the last one first. Not all at once: a megabyte of empty ones would take sixty."""
    end = len(block)
    while (begin := block.rfind(b"\n", 0, end)) >= 0:
        yield block[begin + 1 : end]
        end = begin
    if whole:
        yield block[:end]


def _quick_place(line: bytes) -> EventPosition | None:
    """Told by the first bytes of a line that moe-watch wrote."""
    if found := _PLACE.match(line):
        i, t, frame = found.groups()
        return EventPosition(int(i or frame), float(t or 0))
    return None


def _slow_place(line: bytes) -> EventPosition | None:
    with suppress(ValueError, RecursionError, msgspec.MsgspecError):
        place = msgspec.json.decode(line, type=EventPosition)
        return place if isfinite(place.t) else None
    return None


def _kind(line: bytes) -> int:
    """The kind of a line that does not begin as ours do: other writers may order their fields otherwise."""
    if not line.strip():
        return BLANK
    with suppress(ValueError, RecursionError, msgspec.MsgspecError):
        return _KINDS.get(msgspec.json.decode(line, type=_EventKind).event, GARBAGE)
    return GARBAGE
