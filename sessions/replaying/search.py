"""Search for a text in a recording, in a thread: a long recording takes seconds to read."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from moe_watch.routing.errors import UserError
from moe_watch.sessions.reading.line_grammar import token_text
from moe_watch.sessions.reading.line_reader import Line, Lines, LineTooLongError
from moe_watch.sessions.reading.store import Store

SOUGHT_SOURCES = frozenset({"generated", "injected"})
"""Sources of the tokens that are searched; not the prompt, which the user wrote."""
LINES_AT_ONCE = 128
"""Lines, a millisecond's work, between two checks of the stop flag."""
PAUSE_SECONDS = 0.0005
"""Pause after each of these checks, so that the screen's thread need not wait for the interpreter lock."""


@dataclass(frozen=True, slots=True)
class Match:
    """Position of an occurrence."""

    first: int
    """Index of the token in which it begins."""
    last: int
    """Index of the token in which it ends."""


@runtime_checkable
class Searchable(Protocol):
    """A source with a recording that can be searched."""

    def search(self, text: str) -> Search | None:
        """Begin a search for the next occurrence after the position; return None before the header is read."""


class Search:
    """One search from a line to the end, and then from the beginning to that line.

    An occurrence may span tokens. Upper and lower case are equal.

    Args:
        store: the session's bytes. It must stay open until the search is `over`; `stop` ends a search.
        text: the query, not empty.
        beginning: offset of the line after the header.
        here: offset of the line to begin with.
        end: offset after the last whole line.
    """

    def __init__(self, store: Store, text: str, beginning: int, here: int, end: int) -> None:
        self.text = text
        self.match: Match | None = None
        self.problem = ""
        """Message about a file that could not be read to its end."""
        self.wrapped = False
        """The end was reached; the present position of the search, or its match, precedes the first line."""
        self.over = False
        """The search has ended; no attribute changes after that."""
        self._store = store
        self._beginning, self._here, self._end = beginning, here, end
        self._looked = 0
        """Number of bytes searched."""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="search", daemon=True)
        self._thread.start()

    @property
    def share(self) -> float:
        """Share of the recording that was searched, 0..1."""
        return min(1.0, self._looked / max(1, self._end - self._beginning))

    @property
    def stopping(self) -> bool:
        """`stop` was called."""
        return self._stopped.is_set()

    def stop(self) -> None:
        """End the search, and wait until it no longer uses the store."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            self.match = self._look(self._here, self._end)
            if self.match is None and not self.stopping:
                self.wrapped = True
                self.match = self._look(self._beginning, self._here)
        except UserError as error:
            self.problem = str(error)
        self.over = True

    def _look(self, start: int, until: int) -> Match | None:
        """Return the first occurrence that begins in these bytes; it may end after them."""
        rolling, most, beyond = RollingText(self.text), len(self.text.casefold()), 0
        for line in self._lines(start):
            token = token_text(line.content)
            if token is None:
                continue
            found = rolling.add(*token)
            beyond += len(token[2]) if line.offset >= until else 0
            if found is not None or beyond >= most:
                return found
        return None

    def _lines(self, start: int) -> Iterator[Line]:
        """Yield the lines from an offset on, until the search is stopped."""
        lines, looked = Lines(self._store), self._looked
        lines.go_to(1, start)
        while lines.offset < self._end and not self.stopping:
            for _ in range(LINES_AT_ONCE):
                with suppress(LineTooLongError):  # the next call continues after that line
                    line = lines.next()
                    if line is None:
                        return
                    yield line
            self._looked = looked + min(lines.offset, self._end) - start
            time.sleep(PAUSE_SECONDS)


class RollingText:
    """Text of successive tokens, cut to the end in which an occurrence of the query may begin.

    Args:
        query: the text to find, not empty.
    """

    def __init__(self, query: str) -> None:
        self._query = query.casefold()
        self._tail = ""
        """End of the text so far, shorter than the query."""
        self._tokens: deque[tuple[int, int]] = deque()
        """Index and length of the tokens at the end of the tail."""
        self._held = 0
        """Sum of their lengths, at least the length of the tail."""
        self._next = 0

    def add(self, i: int, source: str, text: str) -> Match | None:
        """Append a token; return the occurrence that ends in it. After a gap, a new text begins.

        Args:
            i: index of the token.
            source: source of the token.
            text: text of the token.
        """
        if i != self._next or source not in SOUGHT_SOURCES:
            self._tail, self._held = "", 0
            self._tokens.clear()
        self._next = i + 1
        if source not in SOUGHT_SOURCES:
            return None
        folded = text.casefold()
        joined = self._tail + folded
        at = joined.find(self._query)
        if at >= 0:
            return Match(self._token_at(len(self._tail) - at, i), i)
        self._keep(joined, i, len(folded))
        return None

    def _token_at(self, back: int, newest: int) -> int:
        """Return the token in which the tail's last `back` characters begin; the newest one if `back` is 0 or less."""
        found = newest
        for i, length in reversed(self._tokens):
            if back <= 0:
                break
            found, back = i, back - length
        return found

    def _keep(self, joined: str, i: int, length: int) -> None:
        """Drop the text in which no occurrence can begin any more."""
        most = len(self._query) - 1
        self._tail = joined[-most:] if most else ""
        self._tokens.append((i, length))
        self._held += length
        while self._tokens and self._held - self._tokens[0][1] >= len(self._tail):
            self._held -= self._tokens.popleft()[1]
