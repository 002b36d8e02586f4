"""Where a jump in a recording leads, and what has to be read and given again for it."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, Protocol

import msgspec

from moe_watch.routing.events import Event, Token, Unknown, from_json
from moe_watch.sessions.reading.index import BLANK, KEYFRAME, TOKEN, VITALS, EventPosition, LineIndex
from moe_watch.sessions.reading.validation import check_alone
from moe_watch.sessions.source import Jump, JumpUnit

WINDOW_TOKENS = 256
"""So many tokens before the position are always given anew: screens show usage over a window of that size."""
READINGS = 240
"""So many readings of the machine: what a screen draws of their history."""


@dataclass(frozen=True, slots=True)
class Landing:
    """What is read for a jump."""

    base: int
    """The first line to read: a keyframe, or the one after the header."""
    target: int
    """The line that playing goes on with."""
    earlier: list[Event]
    """What happened before `base`, tokens left out."""


class Places(Protocol):
    """What one moves by in a recording."""

    def behind(self, event: Event | Unknown) -> int | None:
        """How many tokens one is behind with an event; None if it is nothing that one moves by."""

    def due(self, event: Event | Unknown, now: float) -> float | None:
        """The recorded time at which an event is due after what was shown at `now`; None if it comes with that."""

    def extent(self) -> tuple[EventPosition, EventPosition] | None:
        """The first and the last place, as far as they are known."""

    def line_behind(self, position: int) -> int:
        """The line of what comes next behind so many tokens, or the number of lines."""

    def target_line(self, jump: Jump, here: int) -> int | None:
        """The line that a jump leads to, the number of lines for the end; None while that cannot be known yet.

        Args:
            jump: where to.
            here: the line of what is next now.
        """

    def landing(self, target: int) -> Landing:
        """What has to be read so that everything before a line can be shown as if it had been played."""


@dataclass(frozen=True, slots=True)
class TokenPlaces:
    """One moves by tokens, and by their times."""

    index: LineIndex

    def behind(self, event: Event | Unknown) -> int | None:
        return event.i + 1 if isinstance(event, Token) else None

    def due(self, event: Event | Unknown, now: float) -> float | None:
        return due(event, now)

    def extent(self) -> tuple[EventPosition, EventPosition] | None:
        return self.index.extent()

    def line_behind(self, position: int) -> int:
        return self.index.token_line(position)

    def target_line(self, jump: Jump, here: int) -> int | None:
        return target_line(self.index, jump, here)

    def landing(self, target: int) -> Landing:
        return landing(self.index, target)


def due(event: Event | Unknown, now: float) -> float | None:
    """An event's own time, but never before what was shown last; None if it has none."""
    t: float | None = getattr(event, "t", None)
    return None if t is None else max(now, t)


def target_line(index: LineIndex, jump: Jump, here: int) -> int | None:
    """The line of the token that a jump leads to, `index.lines` for the end; None while that cannot be known yet.

    Args:
        index: the recording's.
        jump: where to.
        here: the line of the token that is next now, `index.lines` at the end.
    """
    if index.behind and here >= index.lines:
        return None
    target = _TARGETS[jump.unit](index, jump, here)
    if index.behind and target >= index.lines:
        return None
    while target > 1 and index.kind(target - 1) == BLANK:  # or reading on from there would pass the token
        target -= 1
    return max(1, target)


def landing(index: LineIndex, target: int) -> Landing:
    """What has to be read so that everything before a line can be shown as if it had been played."""
    base = _base(index, target)
    return Landing(base, target, _earlier(index, base) if base > 1 else [])


def _base(index: LineIndex, target: int) -> int:
    """The keyframe to begin with, or the line after the header where none is far enough before the target.

    Without recorded chunks everything has to be computed from the beginning.
    """
    if not index.chunks:
        return 1
    window = index.last(TOKEN, WINDOW_TOKENS, target)
    place = index.place(window[0]) if len(window) == WINDOW_TOKENS else None
    line = target
    while place is not None and (line := index.before(KEYFRAME, line)) > 0:
        frame = index.place(line)
        if frame is not None and frame.i <= place.i:
            return line
    return 1


def _earlier(index: LineIndex, base: int) -> list[Event]:
    events = index.landmarks_before(base)
    for line in index.last(VITALS, READINGS, base):
        with suppress(ValueError, RecursionError, msgspec.MsgspecError):
            event = from_json(index.line(line))
            check_alone(event)
            events.append(event)
    return events


def _to_token(index: LineIndex, jump: Jump, here: int) -> int:
    if not jump.relative:
        return index.token_line(jump.to)
    steps, line = int(max(-index.lines, min(jump.to, index.lines))), here
    for _ in range(abs(steps)):
        if line < 0 or line >= index.lines > here:
            break
        line = index.before(TOKEN, line) if steps < 0 else index.after(TOKEN, line + 1)
    return line


def _to_time(index: LineIndex, jump: Jump, here: int) -> int:
    place = index.place(here) if here < index.lines else index.last_token()
    since = place.t if jump.relative and place is not None else 0.0
    return index.time_line(since + jump.to)


def _to_chunk(index: LineIndex, jump: Jump, here: int) -> int:
    number = jump.to if jump.relative else bisect_left(index.chunks, jump.to, key=attrgetter("index"))
    return _to_stop(index, replace(jump, to=number), here, index.chunks, lambda chunk: chunk.last + 1)


def _to_mark(index: LineIndex, jump: Jump, here: int) -> int:
    return _to_stop(index, jump, here, index.marks, attrgetter("i"))


def _to_perturbation(index: LineIndex, jump: Jump, here: int) -> int:
    return _to_stop(index, jump, here, index.perturbations, attrgetter("i"))


def _to_stop(index: LineIndex, jump: Jump, here: int, stops: Sequence[Any], behind: Callable[[Any], int]) -> int:
    """The line of the token behind an event, `behind` giving that token's index."""
    number = jump.to
    if jump.relative:
        place = index.place(here) if here < index.lines else None
        position = index.end if place is None else place.i
        bisect = bisect_left if jump.to < 0 else bisect_right
        number += bisect(stops, position, key=behind) - (jump.to > 0)
    if number < 0:
        return 1
    return index.lines if number >= len(stops) else index.token_line(behind(stops[int(number)]))


_TARGETS: dict[JumpUnit, Callable[[LineIndex, Jump, int], int]] = {
    "token": _to_token,
    "time": _to_time,
    "chunk": _to_chunk,
    "mark": _to_mark,
    "perturbation": _to_perturbation,
}
