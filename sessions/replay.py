"""A recorded session as a source: the same stream as when it was live, on a clock that can be held and sped up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from routing.errors import UserError
from routing.events import Event, PerturbationForm, State, StreamItem, Token, Unknown
from sessions.playhead import Playhead
from sessions.reader import SessionReader, read_session
from sessions.recompute import Recomputed
from sessions.source import Ability, PaceStatus, RecordingStatus

ITEMS_PER_DRAIN = 256
SECONDS_PER_DRAIN = 0.03
"""A call gives at most so many items, and takes little longer than this, so that whoever drains gets to draw."""


class ReplaySource:
    """Plays a session file by the times recorded in it. A `sessions.source.Source`.

    Events without a time come with the one before them. The file is read as it is played, one line ahead. Where the
    drain cannot keep up, the replay slows down; it skips nothing.

    Args:
        path: the file.
        clock: monotonic seconds.
        speed: factor on recorded time, 0.25 to 16, or 0 for as fast as it is drained.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic, speed: float = 1.0) -> None:
        self.fatal_error: UserError | None = None
        """Why the file could not be read to its end, if it could not."""
        self._path = path
        self._size = 0
        self._clock = clock
        self._playhead = Playhead(clock, speed)
        self._reader: SessionReader | None = None
        self._recomputed: Recomputed | None = None
        self._items: Iterator[Event | Unknown] = iter(())
        self._next: Event | Unknown | None = None
        self._tokens = 0
        self._time = 0.0
        self._ended = False

    @property
    def abilities(self) -> frozenset[Ability]:
        return frozenset() if self._ended else frozenset({"pause", "speed"})

    @property
    def recording(self) -> RecordingStatus:
        return RecordingStatus("replay", self._path.name, str(self._path), self._size)

    @property
    def pace(self) -> PaceStatus:
        return PaceStatus("speed", self._playhead.speed, self._playhead.paused)

    @property
    def ended(self) -> bool:
        return self._ended

    @property
    def warnings(self) -> list[str]:
        """What the person should know about the file, as far as it was played; one line each."""
        found = [self._reader.torn] if self._reader and self._reader.torn else []
        if self._recomputed and self._recomputed.mismatches:
            count = self._recomputed.mismatches
            found.append(f"{self._path}: {count} chunks or keyframes differ from what the tokens give, which is shown")
        return found

    def start(self) -> None:
        """Open the file. Only the first call does anything.

        Raises:
            UserError: it cannot be read, or holds no session.
        """
        if self._reader is not None:
            return
        self._reader = read_session(self._path)
        self._size = self._path.stat().st_size
        self._recomputed = Recomputed(self._reader)
        self._items = iter(self._recomputed)
        self._advance()

    def drain(self) -> list[StreamItem]:
        items: list[StreamItem] = []
        enough = self._clock() + SECONDS_PER_DRAIN
        while self._next is not None and self._is_due(self._next) and not self._ended:
            if len(items) == ITEMS_PER_DRAIN or self._clock() >= enough:
                self._playhead.move_to(self._time)
                return items
            items.append(self._next)
            self._tokens += isinstance(self._next, Token)
            self._advance()
        if self._next is None and not self._ended:
            items += self._end()
        return items

    def pause(self) -> None:
        self._playhead.hold()

    def resume(self) -> None:
        self._playhead.release()

    def set_pace(self, value: float) -> None:
        self._playhead.set_speed(value)

    def perturb(self, text: str, *, form: PerturbationForm = "raw", at_once: bool = False) -> None:
        """Nothing: what is recorded has happened."""

    def set_tap(self, on: bool) -> None:
        """Nothing: what is recorded has happened."""

    def set_multistep(self, on: bool) -> None:
        """Nothing: what is recorded has happened."""

    def prompt(self, text: str) -> None:
        """Nothing: there is no model."""

    def set_recording(self, on: bool) -> None:
        """Nothing: it is a recording."""

    def mark(self, note: str) -> None:
        """Nothing: the file stays as it is."""

    def restart(self) -> None:
        """Nothing: there is no worker."""

    def close(self) -> None:
        self._ended = True
        if self._reader is not None:
            self._reader.close()

    def _is_due(self, event: Event | Unknown) -> bool:
        recorded = getattr(event, "t", None)
        if recorded is None:
            return not self._playhead.paused
        self._time = max(self._time, recorded)
        return self._playhead.reaches(self._time)

    def _advance(self) -> None:
        try:
            self._next = next(self._items, None)
        except UserError as error:
            self.fatal_error = error
            self._next = None

    def _end(self) -> list[StreamItem]:
        self.close()
        if self.fatal_error is None:
            return []
        return [State(state="error", i=self._tokens, t=self._time, message=str(self.fatal_error))]
