"""Events of a run that wait for a file, while it cannot be recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from moe_watch.routing.events import Event, Keyframe, State, Token, from_json
from moe_watch.sessions.reading.line_grammar import TOKEN_HEAD
from moe_watch.sessions.recording.recorder import line_of

KEPT_BYTES = 16 << 20
"""Maximum bytes of lines kept: minutes of a large model's run, seconds of the smallest model's."""
FIRST_WAIT = 2.0
LONGEST_WAIT = 30.0
"""Seconds from one try to the next, doubled each time."""


class Gap:
    """Events from the first one that could not be written until all kept ones are in a file.

    Args:
        problem: why nothing is recorded, and since which token.
        start: full state before the kept events; None at the beginning of a run.
        lost: number of events that are lost already.
        now: monotonic seconds.
        lines: of events since `start` that a compressor took and that did not get into the file.
    """

    def __init__(
        self, problem: str, start: Keyframe | None, *, lost: int = 0, now: float, lines: Sequence[bytes] = ()
    ) -> None:
        self.problem = problem
        self.start = start
        self.lost = lost
        """Number of events that will be in no file."""
        self._lines = list(lines)
        self._bytes = sum(map(len, lines))
        self._tokens = (start is not None and start.i > 0) or any(line.startswith(TOKEN_HEAD) for line in lines)
        self._time = 0.0
        self._wait = FIRST_WAIT
        self._next_try = now + FIRST_WAIT

    @property
    def worth_a_file(self) -> bool:
        """There is a token before the gap or in it."""
        return self._tokens

    @property
    def first_token(self) -> int:
        """Index of the first token after `start`."""
        return 0 if self.start is None else self.start.i

    def keep(self, event: Event, state: Callable[[], Keyframe]) -> None:
        """Keep one event. Without room for it, drop all kept events and start from the present state."""
        line = line_of(event)
        if self._bytes + len(line) > KEPT_BYTES:
            self.start, self.lost = state(), self.lost + len(self._lines)
            self._lines, self._bytes = [], 0
        self._lines.append(line)
        self._bytes += len(line)
        self._tokens |= isinstance(event, Token)
        if len(self._lines) == 1:
            self._time = getattr(event, "t", self._time)

    def take_back(self) -> None:
        """Remove the event kept last."""
        if self._lines:
            self._bytes -= len(self._lines.pop())

    def events(self) -> Iterator[Event]:
        """Yield the first events of the next file: the full state, a note of lost events, and the kept events."""
        if self.start is not None:
            yield self.start
        if self.lost:
            yield State(state="dropped", i=self.first_token, t=self._time, count=self.lost)
        for line in self._lines:
            yield from_json(line)

    def is_due(self, now: float) -> bool:
        """Return whether it is time for another try."""
        return now >= self._next_try

    def put_off(self, now: float) -> None:
        """Schedule the next try after a failed one."""
        self._wait = min(2 * self._wait, LONGEST_WAIT)
        self._next_try = now + self._wait
