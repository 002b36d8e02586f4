"""Moving about in a recording of counts alone: it has no tokens and no times, but a keyframe for each step counted.

A position is the number of tokens counted so far, and is that of a whole step.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass

from moe_watch.routing.events import Event, Keyframe, Unknown
from moe_watch.sessions.reading.index import KEYFRAME, EventPosition, LineIndex
from moe_watch.sessions.replaying.seeking import Landing, due
from moe_watch.sessions.source import Jump

STEP_SECONDS = 0.5
"""How long a step is shown at the speed of 1; when it was counted is not known."""
BASE_STEPS = 2
"""So many steps are given again for a jump: two tell that there are steps."""


@dataclass(frozen=True, slots=True)
class StepPlaces:
    """One moves by steps, each of which counts those before it, too. `moe_watch.sessions.replaying.seeking.Places`."""

    index: LineIndex

    def behind(self, event: Event | Unknown) -> int | None:
        return event.i if isinstance(event, Keyframe) else None

    def due(self, event: Event | Unknown, now: float) -> float | None:
        return now + STEP_SECONDS if isinstance(event, Keyframe) else due(event, now)

    def extent(self) -> tuple[EventPosition, EventPosition] | None:
        """The first and the last token counted; None without steps, for then nothing has a place."""
        line = self.index.before(KEYFRAME, self.index.lines)
        last = self.index.place(line) if self.index.before(KEYFRAME, line) >= 0 else None
        return None if last is None else (EventPosition(0), EventPosition(last.i - 1))

    def line_behind(self, position: float) -> int:
        """The line of the first step that goes beyond so many tokens, or the number of lines."""
        steps = self._steps()
        return self._line(steps, bisect_right(steps, position, key=self._tokens))

    def target_line(self, jump: Jump, here: int) -> int | None:
        """The line that a jump leads to. A relative one of tokens goes by steps, one of seconds as playing does."""
        if self.index.behind:
            return None
        if jump.unit == "token" and not jump.relative:
            return self.line_behind(jump.to)
        steps = self._steps()
        number = bisect_left(steps, here) if jump.relative else 0
        return self._line(steps, number + jump.to / (STEP_SECONDS if jump.unit == "time" else 1))

    def landing(self, target: int) -> Landing:
        before = self.index.last(KEYFRAME, BASE_STEPS, target)
        return Landing(before[0] if before else 1, target, [])

    def _steps(self) -> list[int]:
        return self.index.last(KEYFRAME, self.index.lines, self.index.lines)

    def _line(self, steps: list[int], number: float) -> int:
        """The line of a step; what lies beyond either end is that end."""
        inside = max(0.0, min(number, float(len(steps))))
        return steps[int(inside)] if inside < len(steps) else self.index.lines

    def _tokens(self, line: int) -> int:
        """Tokens counted up to a step."""
        place = self.index.place(line)
        return 0 if place is None else place.i
