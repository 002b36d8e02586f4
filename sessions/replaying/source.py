"""A recorded session as a source: the same stream as when it was live, with playback speed, pause and seek."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from moe_watch.routing.errors import UserError
from moe_watch.routing.events import State, StreamItem
from moe_watch.sessions.reading.store import Store
from moe_watch.sessions.replaying.player import SECONDS_PER_DRAIN, Player
from moe_watch.sessions.replaying.playhead import Playhead
from moe_watch.sessions.replaying.search import Search
from moe_watch.sessions.replaying.session import IndexedFile, ReplaySession
from moe_watch.sessions.source import Ability, Jump, Origin, PaceStatus, Timeline

SECONDS_TO_OPEN = 0.25
"""Time for the line index in `start`: enough for several hundred megabytes. The rest is indexed during playback."""


class ReplaySource:
    """Player of a session by its recorded times. A `Source`, `Seekable` and `Searchable`.

    Events without a time are shown with the event before them. Where the caller cannot keep up, the replay slows down;
    it skips waits only, never an event.

    Chunks are recomputed from the tokens. After a seek, chunks are shown as recorded first; those since the keyframe at
    which reading began are recomputed, a little at a time, before playing continues.

    Args:
        source: the file, or the bytes of one.
        clock: monotonic seconds.
        speed: playback speed, 0.25 to 16, or 0 for as fast as the caller drains.
        follow: read lines that are added to the file later and, unless `speed` is 0, begin at its end.
    """

    def __init__(
        self,
        source: Path | Store,
        clock: Callable[[], float] = time.monotonic,
        speed: float = 1.0,
        *,
        follow: bool = False,
    ) -> None:
        self.fatal_error: UserError | None = None
        """Reason why the file could not be read to its end; None if it could."""
        self._source = source
        self._clock = clock
        self._playhead = Playhead(clock, speed)
        self._follow = follow
        self._file: IndexedFile | None = None
        """None before `start`."""
        self._player: Player | None = None
        """None until the header is read."""
        self._search: Search | None = None
        self._closed = False

    # -- status

    @property
    def abilities(self) -> frozenset[Ability]:
        if self._closed or self._player is None:
            return frozenset()
        seek = frozenset[Ability]({"seek"} if self._player.session.seekable else ())
        return seek if self.ended else seek | {"pause", "speed"}

    @property
    def origin(self) -> Origin:
        size = 0 if self._file is None else self._file.index.size
        path = str(self._source) if isinstance(self._source, Path) else ""
        return Origin("session", name=self._source.name, path=path, bytes=size)

    @property
    def pace(self) -> PaceStatus:
        return PaceStatus("speed", self._playhead.speed, self._playhead.paused)

    @property
    def ended(self) -> bool:
        return self._closed or self.fatal_error is not None or (self._player is not None and self._player.ended)

    @property
    def timeline(self) -> Timeline | None:
        player = self._player
        return None if player is None else player.session.timeline(player.progress)

    @property
    def warnings(self) -> list[str]:
        """Warnings about the file, as far as it was played; one line each."""
        if self._player is not None:
            return self._player.session.warnings
        return [] if self._file is None else self._file.notes

    # -- commands

    def start(self) -> None:
        """Open the file. Only the first call has an effect.

        Raises:
            UserError: the file cannot be read, or is no session.
        """
        if self._file is not None:
            return
        self._file = IndexedFile(self._source, follow=self._follow)
        try:
            self._extend(self._file, self._clock() + SECONDS_TO_OPEN)
        except UserError:
            self._file.store.close()
            raise

    def drain(self) -> list[StreamItem]:
        items: list[StreamItem] = []
        if self._closed or self._file is None or self.fatal_error is not None:
            return items
        now = self._clock()
        try:
            seeking = self._player is not None and self._player.seeking
            self._extend(self._file, now + SECONDS_PER_DRAIN / (1 if seeking else 2))
            if self._player is not None:
                self._player.drain(items, now)
        except UserError as error:
            self._fail(error, items)
        return items

    def seek(self, jump: Jump) -> None:
        if self._closed or self._player is None:
            return
        self.fatal_error = None
        self._player.seek(jump)

    def pause(self) -> None:
        self._playhead.hold()

    def resume(self) -> None:
        self._playhead.release()

    def set_pace(self, value: float) -> None:
        self._playhead.set_speed(value)

    def search(self, text: str) -> Search | None:
        """Begin a search for the next occurrence of a text after the position; None before the header is read.

        An earlier search is stopped.
        """
        if self._search is not None:
            self._search.stop()
        if self._closed or self._file is None or self._player is None:
            return None
        store, index = self._file.store, self._file.index
        self._search = Search(store, text, index.start_of(1), index.start_of(self._player.next_line()), index.size)
        return self._search

    def close(self) -> None:
        self._closed = True
        if self._search is not None:
            self._search.stop()
        if self._file is not None:
            self._file.store.close()

    # -- reading

    def _extend(self, file: IndexedFile, deadline: float) -> None:
        """Index what was added to the file, and begin to play once its header is there."""
        has_more = file.extend(lambda: self._clock() >= deadline)
        if self._player is None and file.has_header:
            self._player = Player(ReplaySession(file), self._playhead, self._clock, follow=self._follow)
        elif self._player is not None and has_more:
            self._player.session.measure()

    def _fail(self, error: UserError, items: list[StreamItem]) -> None:
        self.fatal_error = UserError(error.what, advice=error.advice)  # without traceback: its frames hold this object
        i, t = (0, 0.0) if self._player is None else (self._player.progress.position, self._player.progress.time)
        items.append(State(state="error", i=i, t=t, message=str(error)))
