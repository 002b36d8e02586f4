"""Target line of a seek, and the events that are read and shown again for it."""

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
"""Tokens before the target that are always shown again: screens show expert usage over a window of this size."""
READINGS = 240
"""Number of vitals that are shown again: the history that a screen draws."""


@dataclass(frozen=True, slots=True)
class SeekPlan:
    """Lines to read, and earlier events to repeat, for a seek."""

    base: int
    """First line to read: a keyframe, or the line after the header."""
    target: int
    """Line with which playing continues."""
    earlier: list[Event]
    """Events before `base`, without tokens."""


class Positions(Protocol):
    """Unit of the positions in a session: tokens, or counted steps."""

    def after(self, event: Event | Unknown) -> int | None:
        """Return the position after an event, in tokens; None if the event does not move it."""

    def due(self, event: Event | Unknown, now: float) -> float | None:
        """Return the recorded time at which an event is due; None if it is shown with the event before it.

        Args:
            event: the event.
            now: recorded time of the event before it.
        """

    def extent(self) -> tuple[EventPosition, EventPosition] | None:
        """Return the first and the last position, as far as they are known."""

    def line_after(self, position: int) -> int:
        """Return the line of the event that follows a position, or the number of lines."""

    def target_line(self, jump: Jump, here: int) -> int | None:
        """Return the target line of a jump, the number of lines for the end; None while it is not indexed yet.

        Args:
            jump: the target.
            here: line of the next event now.
        """

    def plan(self, target: int) -> SeekPlan:
        """Return what to read so that the screen is the same as after playing up to the target line."""


@dataclass(frozen=True, slots=True)
class TokenPositions:
    """Positions by token, with the times of the tokens. A `Positions`."""

    index: LineIndex

    def after(self, event: Event | Unknown) -> int | None:
        return event.i + 1 if isinstance(event, Token) else None

    def due(self, event: Event | Unknown, now: float) -> float | None:
        return due(event, now)

    def extent(self) -> tuple[EventPosition, EventPosition] | None:
        return self.index.extent()

    def line_after(self, position: int) -> int:
        return self.index.token_line(position)

    def target_line(self, jump: Jump, here: int) -> int | None:
        return target_line(self.index, jump, here)

    def plan(self, target: int) -> SeekPlan:
        return seek_plan(self.index, target)


def due(event: Event | Unknown, now: float) -> float | None:
    """Return the time of an event, at least `now`, that of the event before it; None if it has none."""
    t: float | None = getattr(event, "t", None)
    return None if t is None else max(now, t)


def target_line(index: LineIndex, jump: Jump, here: int) -> int | None:
    """Return the line of the token that is the target of a jump; None while it is not indexed yet.

    Args:
        index: lines of the session.
        jump: the target.
        here: line of the next token now, `index.lines` at the end.

    Returns:
        A line from 1 to `index.lines`, the end.
    """
    if index.behind and here >= index.lines:
        return None
    target = _TARGETS[jump.unit](index, jump, here)
    if index.behind and target >= index.lines:
        return None
    while target > 1 and index.kind(target - 1) == BLANK:  # reading on from a blank line would pass the token
        target -= 1
    return max(1, target)


def seek_plan(index: LineIndex, target: int) -> SeekPlan:
    """Return what to read so that the screen is the same as after playing up to the target line."""
    base = _base(index, target)
    return SeekPlan(base, target, _earlier(index, base) if base > 1 else [])


def _base(index: LineIndex, target: int) -> int:
    """Return the line of the last keyframe at least `WINDOW_TOKENS` before the target, or 1, the line after the header.

    Without recorded chunks everything is computed from the beginning.
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
    """Return the line of the token after one of the stops; `behind` returns the index of that token."""
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
