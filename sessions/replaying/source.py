"""A recorded session as a source: the same stream as when it was live, on a clock that can be held and sped up."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Chunk, Event, State, StreamItem, Unknown, Vitals
from moe_watch.sessions.reading.index import EventPosition, LineIndex
from moe_watch.sessions.reading.multipart import JoinedStore, open_run
from moe_watch.sessions.reading.reader import SessionReader
from moe_watch.sessions.reading.recompute import Recomputed
from moe_watch.sessions.reading.store import Store
from moe_watch.sessions.replaying.count_steps import StepPlaces
from moe_watch.sessions.replaying.fixed_run import FixedRun
from moe_watch.sessions.replaying.gc_pause import no_collection
from moe_watch.sessions.replaying.playhead import Playhead
from moe_watch.sessions.replaying.search import Search
from moe_watch.sessions.replaying.seeking import Places, TokenPlaces
from moe_watch.sessions.source import END, STEP, Ability, Jump, PaceStatus, RecordingStatus, Timeline

ITEMS_PER_DRAIN = 256
SECONDS_PER_DRAIN = 0.015
"""A call gives at most so many items, and takes little longer than this, so that whoever drains gets to draw."""
SECONDS_PER_JUMP = 0.05
"""What lies before the target of a jump is to be seen at once."""
SECONDS_TO_OPEN = 0.25
"""Within these all lines of a file of several hundred megabytes are found. The rest is found while it plays."""
MOST_BEHIND = 2048
"""Tokens that may wait for their chunks to be computed; each takes some 20 kB."""
FINAL_STATES = frozenset({"finished", "error"})


class ReplaySource(FixedRun):
    """Plays a session by the times recorded in it. A `moe_watch.sessions.source.Source`.

    Events without a time come with the one before them. Where the drain cannot keep up, the replay slows down; it
    skips nothing but waits.

    What is played is computed from the tokens. After a jump, chunks are given as recorded; those since the keyframe
    that was begun with are computed as well, a little at a time, before anything more is played.

    Args:
        source: the file, or the bytes of one.
        clock: monotonic seconds.
        speed: factor on recorded time, 0.25 to 16, or 0 for as fast as it is drained.
        follow: take in what is written to the file later, and, unless `speed` is 0, begin at its end.
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
        """Why the file could not be read to its end, if it could not."""
        self._source = source
        self._clock = clock
        self._playhead = Playhead(clock, speed)
        self._follow = follow
        self._at_edge = follow and speed != 0
        """Everything that comes is shown at once."""
        self._store: Store | None = None
        self._index: LineIndex | None = None
        self._all_known = False
        """No line will come that the index does not have."""
        self._extent: tuple[EventPosition, EventPosition] | None = None
        """The first and the last token's."""
        self._reader: SessionReader | None = None
        self._places: Places | None = None
        self._recomputed: Recomputed | None = None
        self._differing: set[tuple[type, int]] = set()
        self._ready: deque[Event | Unknown] = deque()
        """What is read and not due yet."""
        self._jumps: deque[Jump] = deque()
        """Where one was asked to go since the last drain."""
        self._target: int | None = None
        """The line up to which everything is shown at once, after a jump."""
        self._as_recorded = False
        """What is shown on the way to `_target` stands in the file like that, and waits in `_behind`."""
        self._behind: deque[Event | Unknown] = deque()
        self._stepping = False
        """What comes before the next token but `_steps` is shown whatever the time."""
        self._steps = 0
        self._position = 0
        """Index of the next token."""
        self._newest_chunk = -1
        self._time = 0.0
        """Of what was shown last."""
        self._quiet_since: float | None = None
        self._over = False
        """The run's last state was shown."""
        self._search: Search | None = None
        self._ended = False
        self._closed = False

    # -- what it is

    @property
    def abilities(self) -> frozenset[Ability]:
        if self._closed or self._reader is None:
            return frozenset()
        nowhere = isinstance(self._places, StepPlaces) and self._extent is None
        seek = frozenset[Ability]() if nowhere else frozenset[Ability]({"seek"})
        return seek if self._ended else seek | {"pause", "speed"}

    @property
    def recording(self) -> RecordingStatus:
        size = self._index.size if self._index else 0
        path = str(self._source) if isinstance(self._source, Path) else ""
        return RecordingStatus("replay", self._source.name, path, size)

    @property
    def pace(self) -> PaceStatus:
        return PaceStatus("speed", self._playhead.speed, self._playhead.paused)

    @property
    def ended(self) -> bool:
        return self._closed or self._ended

    @property
    def timeline(self) -> Timeline | None:
        index = self._index
        if index is None or self._extent is None:
            return None
        first, last = self._extent
        return Timeline(
            first=first.i,
            tokens=last.i + 1,
            seconds=last.t,
            position=self._position,
            time=self._time,
            chunks=len(index.chunks),
            marks=index.marks,
            perturbations=index.perturbations,
        )

    @property
    def warnings(self) -> list[str]:
        """What the person should know about the file, as far as it was played; one line each."""
        found = [*self._reader.header.warnings] if self._reader else []
        if self._reader and self._reader.torn:
            found.append(self._reader.torn)
        if isinstance(self._store, JoinedStore):
            found += self._store.notes
        if self._reader and (before := self._reader.header.continues):
            found.append(f"{self._source.name}: goes on at token {before.i} with what {before.file} began, read alone")
        if self._differing and self._store is not None:
            what = f"{len(self._differing)} chunks or keyframes differ from what the tokens give, which is shown"
            found.append(f"{self._store.name}: {what}")
        return found

    # -- what it does

    def start(self) -> None:
        """Open the file. Only the first call does anything.

        Raises:
            UserError: it cannot be read, or holds no session.
        """
        if self._store is not None:
            return
        source = self._source
        self._store = open_run(source, follow=self._follow) if isinstance(source, Path) else source
        self._index = LineIndex(self._store)
        try:
            self._extend(self._clock() + SECONDS_TO_OPEN)
        except UserError:
            self._store.close()
            raise

    def drain(self) -> list[StreamItem]:
        items: list[StreamItem] = []
        if self._closed or self._store is None or self.fatal_error is not None:
            return items
        now = self._clock()
        try:
            self._extend(now + SECONDS_PER_DRAIN / (1 if self._jumps else 2))
            self._jump(items)
            if self._target is not None:
                self._land(items, now + SECONDS_PER_JUMP)
            elif not self._jumps and self._reader is not None and self._catch_up(items, now + SECONDS_PER_DRAIN):
                self._play(items, now + SECONDS_PER_DRAIN)
        except UserError as error:
            self._fail(error, items)
        return items

    def seek(self, jump: Jump) -> None:
        if self._closed or self._reader is None:
            return
        self.fatal_error, self._ended = None, False
        self._jumps.append(jump)

    def pause(self) -> None:
        self._playhead.hold()

    def resume(self) -> None:
        self._playhead.release()

    def set_pace(self, value: float) -> None:
        self._playhead.set_speed(value)

    def search(self, text: str) -> Search | None:
        """Begin to look for the next place of a text behind the position; None while nothing is read yet.

        What was looked for before is looked for no longer.
        """
        if self._search is not None:
            self._search.stop()
        if self._closed or self._store is None or self._index is None or self._reader is None:
            return None
        begin, here = (self._index.start_of(line) for line in (1, self._here()))
        self._search = Search(self._store, text, begin, here, self._index.size)
        return self._search

    def close(self) -> None:
        self._closed = True
        if self._search is not None:
            self._search.stop()
        if self._store is not None:
            self._store.close()

    # -- reading

    def _extend(self, enough: float) -> None:
        """Take in what the file has become, as far as there is time, and begin once its first line is there."""
        assert self._store is not None
        assert self._index is not None
        if self._all_known:
            return
        complete, lines = self._store.complete, self._index.lines
        self._index.extend(lambda: self._clock() >= enough)
        self._all_known = complete and not self._index.behind
        if self._reader is None and (self._index.lines or complete):
            self._begin(SessionReader(self._store), self._index)
        if self._index.lines > lines and self._places is not None:
            self._extent = self._places.extent()

    def _begin(self, reader: SessionReader, index: LineIndex) -> None:
        self._reader = reader
        self._places = StepPlaces(index) if reader.header.counts_only else TokenPlaces(index)
        self._restart_instruments()
        self._ready.append(reader.header)
        if self._at_edge:
            self._jumps.append(END)

    def _jump(self, items: list[StreamItem]) -> None:
        """Set out for where one was asked to go, unless that is not found yet."""
        while self._jumps and self._places is not None:
            jump = self._jumps[0]
            if jump == STEP and self._target is None:
                self._stepping, self._steps = True, self._steps + 1
            elif (line := self._places.target_line(jump, self._here())) is not None:
                self._begin_again(line, items)
                self._at_edge = self._follow and jump == END
            else:
                return
            self._jumps.popleft()

    def _here(self) -> int:
        """The line of the token that is next, or will be after a jump that is under way."""
        assert self._places is not None
        return self._places.line_behind(self._position + self._steps) if self._target is None else self._target

    def _begin_again(self, target: int, items: list[StreamItem]) -> None:
        """Have everything before this line shown anew, as fast as it can be read."""
        assert self._reader is not None
        assert self._places is not None
        assert self._index is not None
        way = self._places.landing(target)
        self._reader.go_to(way.base + 1, self._index.start_of(way.base))
        self._restart_instruments()
        self._ready.clear()
        items[:] = [self._reader.header, *way.earlier]
        self._target, self._as_recorded = target, bool(self._index.chunks)
        self._position, self._time = 0, 0.0
        self._newest_chunk = next((event.index for event in reversed(way.earlier) if isinstance(event, Chunk)), -1)
        self._quiet_since, self._over = None, False
        self._stepping, self._steps = False, 0
        self._playhead.reset()

    def _restart_instruments(self) -> None:
        assert self._reader is not None
        self._recomputed = Recomputed(self._reader.header, self._differing)
        self._behind.clear()

    def _land(self, items: list[StreamItem], enough: float) -> None:
        """Show what lies before the target of a jump."""
        assert self._reader is not None
        with no_collection():
            while self._target is not None:
                there = not self._ready and self._reader.line >= self._target
                if there or not self._show_recorded(items):
                    self._arrive()
                elif self._clock() >= enough:
                    return

    def _show_recorded(self, items: list[StreamItem]) -> bool:
        assert self._reader is not None
        assert self._recomputed is not None
        if self._ready:
            while self._ready:
                self._give(self._ready.popleft(), items)
            return True
        event = self._reader.poll(skim=True)
        if event is None:
            return False
        if not self._as_recorded:
            self._ready.extend(self._recomputed.take(event))
            return True
        self._give(event, items)
        self._behind.append(event)
        if len(self._behind) > MOST_BEHIND:
            self._recomputed.take(self._behind.popleft())
        return True

    def _arrive(self) -> None:
        self._target = None
        if self._position:
            self._playhead.move_to(self._time)

    def _catch_up(self, items: list[StreamItem], enough: float) -> bool:
        """Compute the chunks of what was shown as recorded; True if that is done.

        One that was not recorded, because the recording ended before, is shown then.
        """
        assert self._recomputed is not None
        while self._behind:
            for event in self._recomputed.take(self._behind.popleft()):
                if isinstance(event, Chunk) and event.index > self._newest_chunk:
                    self._give(event, items)
            if self._clock() >= enough:
                return False
        return True

    def _play(self, items: list[StreamItem], enough: float) -> None:
        """Show what is due."""
        assert self._reader is not None
        while (event := self._peek()) is not None and self._is_due(event):
            if items and (len(items) >= ITEMS_PER_DRAIN or self._clock() >= enough):
                self._playhead.move_to(self._due(event) or self._time)
                return
            self._give(self._ready.popleft(), items)
        self._ended = event is None and (self._reader.at_end or (self._follow and self._over))

    def _peek(self) -> Event | Unknown | None:
        """What comes next, as far as it can be known yet."""
        assert self._reader is not None
        assert self._recomputed is not None
        while not self._ready:
            event = self._reader.poll()
            if event is None:
                return None
            self._ready.extend(self._recomputed.take(event))
        return self._ready[0]

    def _is_due(self, event: Event | Unknown) -> bool:
        assert self._places is not None
        if self._stepping and (self._steps or self._places.behind(event) is None):
            return True
        if self._stepping:
            self._stepping = False
            self._playhead.move_to(self._time)
        due = self._due(event)
        if self._at_edge or due is None:
            return not self._playhead.paused
        return self._playhead.reaches(due, self._quiet_since)

    def _due(self, event: Event | Unknown) -> float | None:
        """When an event is due; None if it comes with the one before it."""
        assert self._places is not None
        return self._places.due(event, self._time)

    def _give(self, event: Event | Unknown, items: list[StreamItem]) -> None:
        assert self._places is not None
        items.append(event)
        if (position := self._places.behind(event)) is not None:
            self._position, self._over = position, False
            self._steps = max(0, self._steps - 1)
        elif isinstance(event, Chunk):
            self._newest_chunk = event.index
        elif isinstance(event, State):
            self._over = event.state in FINAL_STATES
        if (due := self._due(event)) is not None:
            self._time = due
            if self._quiet_since is None or not isinstance(event, Vitals):
                self._quiet_since = due

    def _fail(self, error: UserError, items: list[StreamItem]) -> None:
        self.fatal_error = UserError(error.what, advice=error.advice)  # one without frames, of which this is one
        self._ended = True
        items.append(State(state="error", i=self._position, t=self._time, message=str(error)))
