"""Detection of tokens with a damaged index that is too large: valid events that the tokens after them contradict."""

from __future__ import annotations

from contextlib import suppress

from moe_watch.routing.events import Keyframe, Token
from moe_watch.sessions.reading.line_grammar import token_index
from moe_watch.sessions.reading.line_reader import Line, Lines, LineTooLongError
from moe_watch.sessions.reading.reader import Examined, SessionReader
from moe_watch.sessions.reading.validation import MAX_INTEGER

TOKENS_AHEAD = 5
"""Number of tokens after a suspect one that are compared with it."""
LINES_AHEAD = 64
"""Number of lines in which these tokens are searched."""


class PlausibleReader(SessionReader):
    """Reader that reports a token far ahead as damaged if the tokens after it continue from before it.

    Accepting its index would mean refusing all tokens after it.
    """

    _next = 0
    """Index of the next token if none is missing."""

    def _examined(self, line: Line) -> Examined:
        i = token_index(line.content)
        if i is not None and self._next < i <= MAX_INTEGER and self._is_contradicted(i):
            problem = f"token {i} instead of token {self._next}; the tokens after it continue from {self._next}"
            return Examined(line.number, line.offset, None, problem, content=line.content)
        examined = super()._examined(line)
        if isinstance(examined.event, Token | Keyframe):
            self._next = examined.event.i + isinstance(examined.event, Token)
        return examined

    def _is_contradicted(self, i: int) -> bool:
        """Return whether the tokens after it contradict a token with this index.

        They do if two of them belong before it, or one that directly follows the expected token.
        """
        before = [each for each in self._indices_ahead() if self._next <= each <= i]
        return len(before) > 1 or before == [self._next + 1]

    def _indices_ahead(self) -> list[int]:
        """Return the indices of the tokens on the next lines."""
        lines, found = Lines(self._store), list[int]()
        lines.go_to(self._lines.number + 1, self._lines.offset)
        with suppress(LineTooLongError):
            for _ in range(LINES_AHEAD):
                line = lines.next()
                if line is None or len(found) == TOKENS_AHEAD:
                    break
                index = token_index(line.content)
                found += [] if index is None else [index]
        return found
