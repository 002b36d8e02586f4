"""Progress of a replay, and the schedule of the events that follow."""

from __future__ import annotations

from dataclasses import dataclass

from moe_watch.routing.events import Chunk, Event, State, Unknown, Vitals
from moe_watch.sessions.replaying.playhead import Playhead
from moe_watch.sessions.replaying.seeking import Positions

LONGEST_WAIT = 2.0
"""Idle skip: recorded seconds that a replay waits while nothing happens; the rest of a longer wait is skipped."""
FINAL_STATES = frozenset({"finished", "error"})


@dataclass(slots=True)
class PlaybackProgress:
    """Position after the events that were shown since the stream began, or began again after a seek."""

    positions: Positions
    newest_chunk: int = -1
    """Index of the newest chunk that was shown; -1 before the first."""
    position: int = 0
    """Index of the next token."""
    time: float = 0.0
    """Recorded seconds of the event that was shown last."""
    active: float | None = None
    """Recorded seconds of the last event other than vitals; None before the first event with a time."""
    over: bool = False
    """The last state of the run was shown."""

    def due(self, event: Event | Unknown) -> float | None:
        """Return the recorded time at which an event is due; None if it is shown with the event before it."""
        return self.positions.due(event, self.time)

    def add(self, event: Event | Unknown) -> bool:
        """Record that an event is shown; return whether it moves the position."""
        position = self.positions.after(event)
        if position is not None:
            self.position, self.over = position, False
        elif isinstance(event, Chunk):
            self.newest_chunk = event.index
        elif isinstance(event, State):
            self.over = event.state in FINAL_STATES
        if (due := self.due(event)) is not None:
            self.time = due
            if self.active is None or not isinstance(event, Vitals):
                self.active = due
        return position is not None


@dataclass(slots=True)
class Schedule:
    """Rule that decides when the next event is shown: single steps, the live edge, or recorded time."""

    playhead: Playhead
    live_edge: bool
    """Show every event as soon as it is in the file."""
    steps: int = 0
    """Tokens to show at once."""
    stepping: bool = False
    """Show everything before the token after the last step."""

    def step(self) -> None:
        """Show one more token at once, and all that precedes the token after it."""
        self.stepping = True
        self.steps += 1

    def moved(self) -> None:
        """Count a step as done: the position moved."""
        self.steps = max(0, self.steps - 1)

    def is_due(self, event: Event | Unknown, progress: PlaybackProgress) -> bool:
        """Return whether the next event is to be shown now."""
        if self.stepping and (self.steps or progress.positions.after(event) is None):
            return True
        if self.stepping:
            self.stepping = False
            self.playhead.move_to(progress.time)
        due = progress.due(event)
        if self.live_edge or due is None:
            return not self.playhead.paused
        return self.playhead.reaches(due, skip_idle(due, progress.active))


def skip_idle(due: float, active: float | None) -> float:
    """Return when an event is shown that is due at `due`: at most `LONGEST_WAIT` after the last activity."""
    return due if active is None else min(due, active + LONGEST_WAIT)
