"""Player of an open session: after a seek it lands, catches up, and plays.

Each phase is an object. A seek discards the present one and begins with a new `Pass` over the file.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from moe_watch.routing.events import Chunk, Event, StreamItem, Unknown
from moe_watch.sessions.reading.reader import SessionReader
from moe_watch.sessions.reading.recompute import Recomputed
from moe_watch.sessions.replaying.gc_pause import no_collection
from moe_watch.sessions.replaying.playhead import Playhead
from moe_watch.sessions.replaying.progress import PlaybackProgress, Schedule
from moe_watch.sessions.replaying.session import ReplaySession
from moe_watch.sessions.source import END, STEP, Jump

ITEMS_PER_DRAIN = 256
SECONDS_PER_DRAIN = 0.015
"""Bounds of one call, in items and roughly in seconds, so that the caller has time to draw."""
SECONDS_PER_JUMP = 0.05
"""Bound of one call after a seek, in seconds; larger, since everything before the target is to be visible at once."""
MOST_BEHIND = 2048
"""Tokens that may wait until their chunks are computed; each takes some 20 kB."""

Clock = Callable[[], float]


@dataclass(slots=True)
class Pass:
    """One pass over the events of a file: reader, instruments, progress and schedule."""

    reader: SessionReader
    instruments: Recomputed
    progress: PlaybackProgress
    schedule: Schedule
    ready: deque[Event | Unknown] = field(default_factory=deque)
    """Events that are read, recomputed and not shown yet."""

    def peek(self) -> Event | Unknown | None:
        """Return the next event; None if the file has none, or none yet.

        Raises:
            UserError: the next line is no event, or cannot be read.
        """
        while not self.ready:
            event = self.reader.poll()
            if event is None:
                return None
            self.ready.extend(self.instruments.feed(event))
        return self.ready[0]

    def show(self, event: Event | Unknown, items: list[StreamItem]) -> None:
        """Append an event to the stream."""
        items.append(event)
        if self.progress.add(event):
            self.schedule.moved()

    def show_ready(self, items: list[StreamItem]) -> None:
        """Append all events that are ready."""
        while self.ready:
            self.show(self.ready.popleft(), items)


class Landing:
    """Phase after a seek: show everything before the target as fast as the file can be read.

    Args:
        target: line with which playing continues.
        as_recorded: the file has chunks. They are shown as recorded, and recomputed in the next phase; without them
            every chunk is computed on the way.
    """

    def __init__(self, present: Pass, target: int, *, as_recorded: bool) -> None:
        self.present = present
        self.target = target
        self._as_recorded = as_recorded
        self._behind: deque[Event | Unknown] = deque()
        """Events that are shown and not fed to the instruments yet."""

    def run(self, items: list[StreamItem], enough: Callable[[], bool]) -> Landing | CatchingUp:
        """Append events until the target is reached or there is `enough`; return the phase that follows."""
        present = self.present
        with no_collection():
            while present.ready or present.reader.line < self.target:
                if not self._show_next(items):
                    break
                if enough():  # after the last event, too: the next call finds that the target is reached
                    return self
        if present.progress.position:
            present.schedule.playhead.move_to(present.progress.time)
        return CatchingUp(present, self._behind)

    def _show_next(self, items: list[StreamItem]) -> bool:
        """Show the ready events, or read one; return False if the file has none."""
        present = self.present
        if present.ready:
            present.show_ready(items)
            return True
        event = present.reader.poll(skim=True)
        if event is None:
            return False
        if not self._as_recorded:
            present.ready.extend(present.instruments.feed(event))
            return True
        present.show(event, items)
        self._behind.append(event)
        if len(self._behind) > MOST_BEHIND:
            present.instruments.feed(self._behind.popleft())
        return True


class CatchingUp:
    """Phase after a landing: recompute the chunks that were shown as recorded.

    A chunk that is not in the file, because the recording ended before it was complete, is shown now.
    """

    def __init__(self, present: Pass, behind: deque[Event | Unknown]) -> None:
        self.present = present
        self._behind = behind

    def run(self, items: list[StreamItem], enough: Callable[[], bool]) -> CatchingUp | Playing:
        """Feed events to the instruments until there is `enough`; return the phase that follows."""
        present = self.present
        while self._behind:
            for event in present.instruments.feed(self._behind.popleft()):
                if isinstance(event, Chunk) and event.index > present.progress.newest_chunk:
                    present.show(event, items)
            if enough():
                return self
        return Playing(present)


class Playing:
    """Phase that shows every event when it is due."""

    def __init__(self, present: Pass) -> None:
        self.present = present
        self.ended = False
        """The file has no further event, nor will it get one."""

    def run(self, items: list[StreamItem], enough: Callable[[], bool], *, follow: bool) -> None:
        """Append the events that are due, until there is `enough`.

        Where the caller cannot keep up, the replay slows down; it skips no event.
        """
        present, progress = self.present, self.present.progress
        while (event := present.peek()) is not None and present.schedule.is_due(event, progress):
            if items and (len(items) >= ITEMS_PER_DRAIN or enough()):
                present.schedule.playhead.move_to(progress.due(event) or progress.time)
                return
            present.show(present.ready.popleft(), items)
        self.ended = event is None and (present.reader.at_end or (follow and progress.over))


class Player:
    """Stream of a session's events, and the phase it is in.

    Args:
        session: open, its reader before the first event.
        playhead: recorded time.
        clock: monotonic seconds.
        follow: the file may grow; the run is over with its last state.
    """

    def __init__(self, session: ReplaySession, playhead: Playhead, clock: Clock, *, follow: bool) -> None:
        self.session = session
        self._playhead = playhead
        self._clock = clock
        self._follow = follow
        self._jumps: deque[Jump] = deque()
        """Seeks since the last drain, and those whose target is not indexed yet."""
        live_edge = follow and playhead.speed != 0
        first = self._pass(PlaybackProgress(session.positions), live_edge=live_edge)
        first.ready.append(session.header)
        self._phase: Landing | CatchingUp | Playing = Playing(first)
        if live_edge:
            self._jumps.append(END)

    @property
    def progress(self) -> PlaybackProgress:
        """Position after the events that were shown."""
        return self._phase.present.progress

    @property
    def seeking(self) -> bool:
        """A seek waits to be carried out."""
        return bool(self._jumps)

    @property
    def landing(self) -> bool:
        """A seek is under way: its target is not reached yet."""
        return isinstance(self._phase, Landing)

    @property
    def ended(self) -> bool:
        """Everything was shown, and no further event will come."""
        return not self._jumps and isinstance(self._phase, Playing) and self._phase.ended

    def seek(self, jump: Jump) -> None:
        """Go to another position with the next drain."""
        self._jumps.append(jump)

    def next_line(self) -> int:
        """Return the line of the next token, or of the target of a seek under way."""
        if isinstance(self._phase, Landing):
            return self._phase.target
        return self.session.positions.line_after(self.progress.position + self._phase.present.schedule.steps)

    def drain(self, items: list[StreamItem], now: float) -> None:
        """Append the events that are to be shown now.

        Raises:
            UserError: the file cannot be read any further.
        """
        self._carry_out_seeks(items)
        if isinstance(self._phase, Landing):
            self._phase = self._phase.run(items, self._until(now + SECONDS_PER_JUMP))
        elif not self._jumps:
            enough = self._until(now + SECONDS_PER_DRAIN)
            if isinstance(self._phase, CatchingUp):
                self._phase = self._phase.run(items, enough)
            if isinstance(self._phase, Playing):
                self._phase.run(items, enough, follow=self._follow)

    def _until(self, deadline: float) -> Callable[[], bool]:
        return lambda: self._clock() >= deadline

    def _carry_out_seeks(self, items: list[StreamItem]) -> None:
        """Begin the seeks that were asked for, up to one whose target is not indexed yet."""
        while self._jumps:
            jump = self._jumps[0]
            if jump == STEP and not isinstance(self._phase, Landing):
                self._phase.present.schedule.step()
            elif (line := self.session.positions.target_line(jump, self.next_line())) is not None:
                self._phase = self._land_before(line, items, live_edge=self._follow and jump == END)
            else:
                return
            self._jumps.popleft()

    def _land_before(self, target: int, items: list[StreamItem], *, live_edge: bool) -> Landing:
        """Begin the stream again, so that everything before the target line is shown."""
        session = self.session
        plan = session.positions.plan(target)
        session.read_from(plan.base)
        items[:] = [session.header, *plan.earlier]
        newest = next((event.index for event in reversed(plan.earlier) if isinstance(event, Chunk)), -1)
        self._playhead.reset()
        again = self._pass(PlaybackProgress(session.positions, newest), live_edge=live_edge)
        return Landing(again, target, as_recorded=bool(session.index.chunks))

    def _pass(self, progress: PlaybackProgress, *, live_edge: bool) -> Pass:
        session = self.session
        return Pass(session.reader, session.instruments(), progress, Schedule(self._playhead, live_edge))
