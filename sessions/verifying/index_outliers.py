"""Tokens whose index was damaged so that it is too large: possible events, and contradicted by those after them."""

from __future__ import annotations

from contextlib import suppress

import msgspec

from moe_watch.routing.events import Keyframe, Token
from moe_watch.sessions.reading.lines import Line, Lines, LineTooLongError
from moe_watch.sessions.reading.reader import Examined, SessionReader
from moe_watch.sessions.reading.validation import MAX_INTEGER

TOKENS_AHEAD = 5
"""So many tokens behind one that is ahead of its place are asked."""
LINES_AHEAD = 64
"""They are looked for on so many lines."""


class _Place(msgspec.Struct):
    event: str
    i: int


class PlausibleReader(SessionReader):
    """Examines a file, and takes a token that is far ahead for damaged where the tokens after it go on from before it.

    A reader that believes it would refuse all of those.
    """

    _next = 0
    """Index of the token that comes next, if none is missing."""

    def _examined(self, line: Line) -> Examined:
        i = _index_of(line.content)
        if i is not None and self._next < i <= MAX_INTEGER and self._is_contradicted(i):
            problem = f"token {i}, where token {self._next} comes next and those after it go on from there"
            return Examined(line.number, line.offset, None, problem, content=line.content)
        examined = super()._examined(line)
        if isinstance(examined.event, Token | Keyframe):
            self._next = examined.event.i + isinstance(examined.event, Token)
        return examined

    def _is_contradicted(self, i: int) -> bool:
        """Whether to believe a token with this index means not to believe those after it.

        That is so if two of them belong before it; or one, and that is the one that follows the token expected here.
        """
        before = [each for each in self._indices_ahead() if self._next <= each <= i]
        return len(before) > 1 or before == [self._next + 1]

    def _indices_ahead(self) -> list[int]:
        """Indices of the tokens on the lines to come."""
        lines, found = Lines(self._store), list[int]()
        lines.go_to(self._lines.number + 1, self._lines.offset)
        with suppress(LineTooLongError):
            for _ in range(LINES_AHEAD):
                line = lines.next()
                if line is None or len(found) == TOKENS_AHEAD:
                    break
                index = _index_of(line.content)
                found += [] if index is None else [index]
        return found


def _index_of(content: bytes) -> int | None:
    """The index of a token, if the line holds one; whether it holds a sound one is not looked at."""
    with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        place = msgspec.json.decode(content, type=_Place)
        return place.i if place.event == "token" else None
    return None
