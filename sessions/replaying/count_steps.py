"""Positions in a session of counts only: no tokens and no times, but one keyframe per counted step.

A position is a number of counted tokens, and is always the end of a whole step.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass

from moe_watch.routing.events import Event, Keyframe, Unknown
from moe_watch.sessions.reading.index import KEYFRAME, EventPosition, LineIndex
from moe_watch.sessions.replaying.seeking import SeekPlan, due
from moe_watch.sessions.source import Jump

STEP_SECONDS = 0.5
"""Duration of a step at playback speed 1; the time at which it was counted is not known."""
BASE_STEPS = 2
"""Steps that are shown again after a seek: two, so that a reader sees that there are steps."""


@dataclass(frozen=True, slots=True)
class StepPositions:
    """Positions by step; each step includes the counts of the steps before it.

    A `moe_watch.sessions.replaying.seeking.Positions`.
    """

    index: LineIndex

    def after(self, event: Event | Unknown) -> int | None:
        return event.i if isinstance(event, Keyframe) else None

    def due(self, event: Event | Unknown, now: float) -> float | None:
        return now + STEP_SECONDS if isinstance(event, Keyframe) else due(event, now)

    def extent(self) -> tuple[EventPosition, EventPosition] | None:
        """Return the first and the last counted token; None without steps, since then nothing has a position."""
        line = self.index.before(KEYFRAME, self.index.lines)
        last = self.index.place(line) if self.index.before(KEYFRAME, line) >= 0 else None
        return None if last is None else (EventPosition(0), EventPosition(last.i - 1))

    def line_after(self, position: float) -> int:
        """Return the line of the first step that counts more than `position` tokens, or the number of lines."""
        steps = self._steps()
        return self._line(steps, bisect_right(steps, position, key=self._tokens))

    def target_line(self, jump: Jump, here: int) -> int | None:
        """Return the target line. Relative tokens are steps; seconds are converted by `STEP_SECONDS`."""
        if self.index.behind:
            return None
        if jump.unit == "token" and not jump.relative:
            return self.line_after(jump.to)
        steps = self._steps()
        number = bisect_left(steps, here) if jump.relative else 0
        return self._line(steps, number + jump.to / (STEP_SECONDS if jump.unit == "time" else 1))

    def plan(self, target: int) -> SeekPlan:
        before = self.index.last(KEYFRAME, BASE_STEPS, target)
        return SeekPlan(before[0] if before else 1, target, [])

    def _steps(self) -> list[int]:
        return self.index.last(KEYFRAME, self.index.lines, self.index.lines)

    def _line(self, steps: list[int], number: float) -> int:
        """Return the line of a step; numbers beyond either end are clamped to it."""
        inside = max(0.0, min(number, float(len(steps))))
        return steps[int(inside)] if inside < len(steps) else self.index.lines

    def _tokens(self, line: int) -> int:
        """Return the number of tokens counted up to a step."""
        place = self.index.place(line)
        return 0 if place is None else place.i
