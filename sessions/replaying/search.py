"""Looking for a text in a recording, on a thread of its own: a long one takes seconds to be looked through."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from moe_watch.routing.errors import UserError
from moe_watch.sessions.reading.lines import Line, Lines, LineTooLongError
from moe_watch.sessions.reading.store import Store
from moe_watch.sessions.reading.wire import token_text

SOUGHT_SOURCES = frozenset({"generated", "injected"})
"""What is looked through: the prompt is known to whoever wrote it."""
LINES_AT_ONCE = 128
"""So many lines, a millisecond's work, are looked at before it is asked whether that is still wanted."""
PAUSE_SECONDS = 0.0005
"""After each of these, so that the screen's thread need not wait for the interpreter's lock."""


@dataclass(frozen=True, slots=True)
class Match:
    """Where a text stands."""

    first: int
    """Index of the token in which it begins."""
    last: int
    """Index of the token in which it ends."""


@runtime_checkable
class Searchable(Protocol):
    """A source in whose recording a text can be looked for."""

    def search(self, text: str) -> Search | None:
        """Begin to look for the next place of a text behind the position; None while nothing is read yet."""


class Search:
    """One look through a recording, from a place to its end and then from its beginning to that place.

    The text may span tokens; upper and lower case are the same.

    Args:
        store: the session's bytes. It stays open until the search is `over`; `stop` ends one.
        text: what to look for, not empty.
        beginning: offset of the line after the header.
        here: offset of the line to begin with.
        end: offset behind the last whole line.
    """

    def __init__(self, store: Store, text: str, beginning: int, here: int, end: int) -> None:
        self.text = text
        self.match: Match | None = None
        """The place that was found."""
        self.problem = ""
        """Why not all could be read, in a line."""
        self.wrapped = False
        """The end was reached, and what is looked at, or was found, stands before the place."""
        self.over = False
        """Nothing will change any more."""
        self._store = store
        self._beginning, self._here, self._end = beginning, here, end
        self._looked = 0
        """Bytes that were looked through."""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="search", daemon=True)
        self._thread.start()

    @property
    def share(self) -> float:
        """How much of the recording was looked through, 0..1."""
        return min(1.0, self._looked / max(1, self._end - self._beginning))

    @property
    def stopping(self) -> bool:
        """It was told to stop."""
        return self._stopped.is_set()

    def stop(self) -> None:
        """Let it be, and wait until the store is no longer used."""
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
        """The first place in these bytes, or one that begins in them and ends behind them."""
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
        """The lines from an offset on, as long as they are wanted."""
        lines, looked = Lines(self._store), self._looked
        lines.go_to(1, start)
        while lines.offset < self._end and not self.stopping:
            for _ in range(LINES_AT_ONCE):
                with suppress(LineTooLongError):  # asked again, it goes on behind that line
                    line = lines.next()
                    if line is None:
                        return
                    yield line
            self._looked = looked + min(lines.offset, self._end) - start
            time.sleep(PAUSE_SECONDS)


class RollingText:
    """The text of tokens that follow one another, as much of its end as a wanted text may begin in.

    Args:
        wanted: what to look for, not empty.
    """

    def __init__(self, wanted: str) -> None:
        self._wanted = wanted.casefold()
        self._tail = ""
        """The end of the text so far, too short to hold what is wanted."""
        self._tokens: deque[tuple[int, int]] = deque()
        """Index and length of those that the tail ends with."""
        self._held = 0
        """Their length in all, at least the tail's."""
        self._next = 0

    def add(self, i: int, source: str, text: str) -> Match | None:
        """Go on with a token; the place of what is wanted, if it ends in this one. Behind a gap, a new text begins.

        Args:
            i: the token's index.
            source: where it comes from.
            text: what it reads.
        """
        if i != self._next or source not in SOUGHT_SOURCES:
            self._tail, self._held = "", 0
            self._tokens.clear()
        self._next = i + 1
        if source not in SOUGHT_SOURCES:
            return None
        folded = text.casefold()
        joined = self._tail + folded
        at = joined.find(self._wanted)
        if at >= 0:
            return Match(self._token_at(len(self._tail) - at, i), i)
        self._keep(joined, i, len(folded))
        return None

    def _token_at(self, back: int, newest: int) -> int:
        """The token in which the tail's last `back` characters begin; the newest one if there are none."""
        found = newest
        for i, length in reversed(self._tokens):
            if back <= 0:
                break
            found, back = i, back - length
        return found

    def _keep(self, joined: str, i: int, length: int) -> None:
        """Forget what is too far back for a match to begin in."""
        most = len(self._wanted) - 1
        self._tail = joined[-most:] if most else ""
        self._tokens.append((i, length))
        self._held += length
        while self._tokens and self._held - self._tokens[0][1] >= len(self._tail):
            self._held -= self._tokens.popleft()[1]
