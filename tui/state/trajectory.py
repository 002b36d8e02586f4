"""The chunks of one pressure mode, and what can be said of them without fitting anything."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from dataclasses import dataclass, replace
from operator import attrgetter

import msgspec

from moe_watch.routing.events import Chunk, Keyframe, Perturbation, State
from moe_watch.routing.half_life.series import MidSeries
from moe_watch.routing.pressure.formulas import CONTEXT_MODES, WARM_UP_CHUNKS, crossing
from moe_watch.routing.pressure.instruments import complete_chunks, lacks_start
from moe_watch.tui.text.format import count

CHUNKS_KEPT = 4000
INJECTIONS_KEPT = 400
RESTARTS_KEPT = 400


@dataclass(frozen=True, slots=True)
class InjectionPoint:
    """Text put into the context before chunk `chunk`."""

    chunk: int
    i: int
    label: str
    before: Chunk | None
    """The last complete chunk before it."""


@dataclass(frozen=True, slots=True)
class Restart:
    """A fresh context that begins before chunk `chunk`."""

    chunk: int
    i: int
    context: int
    """Its number, from 0."""


class PressureTrack:
    """P_mid by chunk, its start, its half, and the difference around the last injection.

    Start, half and crossing are those of the present context.
    """

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.chunks: deque[Chunk] = deque(maxlen=CHUNKS_KEPT)
        self.injections: deque[InjectionPoint] = deque(maxlen=INJECTIONS_KEPT)
        self.restarts: deque[Restart] = deque(maxlen=RESTARTS_KEPT)
        self.seen = 0
        """Chunks so far, those no longer kept included."""
        self.complete = 0
        """Complete chunks that count as warm-up first, those before the recording included: of the present context,
        or of the run where the mode does not begin again with one."""
        self.initial: float | None = None
        """P₀: P_mid of the first complete chunk after the warm-up."""
        self.initial_problem = ""
        """Why there will be no `initial`, whatever comes."""
        self.crossing: int | None = None
        """Index of the first chunk at or below half of P₀."""
        self.after: Chunk | None = None
        """The first complete chunk after the last injection."""
        self.series = MidSeries(mode)
        """What a trend is fitted to."""
        self._last_complete: Chunk | None = None
        self.entered_at: int | None = None
        """Token from which on chunks are computed here, if a jump led beyond those before it."""
        self._begins: int | None = None
        """Index of the first chunk that came."""
        self.next_chunk = 0
        """Index of the next chunk to come."""

    def begin_at(self, frame: Keyframe, *, recorded: bool = True) -> None:
        """Go on from the state before the first token, where a recording begins in mid-run, or was entered by a jump.

        Args:
            frame: that state.
            recorded: False for chunks that are computed here: those before a jump are not.
        """
        start = self._start(frame)
        self.next_chunk = frame.chunks
        self.complete = complete_chunks(frame, self.mode)
        if start is not None:
            self._begin_after(start)
        if not recorded:
            self.entered_at = frame.i

    def _start(self, frame: Keyframe) -> Keyframe | None:
        """The state where the chunks that are known begin; None if that is where the context begins."""
        if self._begins is None:
            return frame
        if not self._begins or self.restarts:
            return None
        unknown = complete_chunks(frame, self.mode) - self.complete
        in_context = None if frame.context_chunks is None else unknown
        return msgspec.structs.replace(frame, chunks=self._begins, complete_chunks=unknown, context_chunks=in_context)

    def _begin_after(self, start: Keyframe) -> None:
        """Measure nothing against a start that lies before what is known."""
        self.series.feed(start)
        if lacks_start(start, self.mode):
            self.initial = self.crossing = None
            self.initial_problem = "the recording begins after it"

    @property
    def unavailable(self) -> str:
        """Why nothing can be fitted; empty if it can."""
        if self.entered_at is not None and self.initial_problem:
            return f"no P₀: computed from token {count(self.entered_at)} on, after a jump"
        return self.series.unavailable

    def add(self, chunk: Chunk) -> None:
        """Take in the next chunk."""
        self._begins = chunk.index if self._begins is None else self._begins
        self.next_chunk = chunk.index + 1
        self.chunks.append(chunk)
        self.series.feed(chunk)
        self.seen += 1
        if chunk.partial:
            return
        self.complete += 1
        self._last_complete = chunk
        if self.injections and self.after is None and chunk.first >= self.injections[-1].i:
            self.after = chunk
        if chunk.pressures is not None and not chunk.warm_up:
            self._measure(chunk.index, chunk.pressures.mid)

    def begin_context(self, state: State) -> None:
        """Begin again with a fresh context: what was measured before it belongs to another one."""
        self.series.feed(state)
        self.restarts.append(Restart(self.next_chunk, state.i, self.series.current.number))
        self.initial = self.crossing = self._last_complete = None
        self.initial_problem = ""
        if self.mode in CONTEXT_MODES:
            self.complete = 0

    def inject(self, perturbation: Perturbation, label: str, before_chunk: int) -> None:
        """Text was put in before the chunk of this index."""
        self.injections.append(InjectionPoint(before_chunk, perturbation.i, label, self._last_complete))
        self.after = None

    def put_behind(self, cut: Chunk) -> None:
        """Move the last injection or restart behind the chunk that it cut short, which is only told after it."""
        last = self.injections[-1] if self.injections else None
        if last is not None and last.chunk <= cut.index and cut.last < last.i:
            self.injections[-1] = replace(last, chunk=cut.index + 1)
        restart = self.restarts[-1] if self.restarts else None
        if restart is not None and restart.chunk <= cut.index and cut.last < restart.i:
            self.restarts[-1] = replace(restart, chunk=cut.index + 1)

    @property
    def last_injection(self) -> InjectionPoint | None:
        """The last injection, if it is of the present context."""
        last = self.injections[-1] if self.injections else None
        return None if last is None or (self.restarts and last.i < self.restarts[-1].i) else last

    def averaged(self, chunk: Chunk) -> int:
        """Return the tokens that the averages of this mode have taken in at the end of a chunk."""
        before = bisect_right(self.restarts, chunk.first, key=attrgetter("i")) if self.mode in CONTEXT_MODES else 0
        return chunk.last - (self.restarts[before - 1].i if before else 0)

    @property
    def half(self) -> float | None:
        """Half of P₀."""
        return None if self.initial is None else self.initial / 2

    @property
    def warm_up_missing(self) -> int:
        """Complete chunks still needed before anything is measured."""
        return max(0, WARM_UP_CHUNKS - self.complete)

    @property
    def delta(self) -> float | None:
        """P_mid of the complete chunk after the last injection, minus that of the one before."""
        before = None if self.last_injection is None else self.last_injection.before
        if before is None or self.after is None or before.pressures is None or self.after.pressures is None:
            return None
        return self.after.pressures.mid - before.pressures.mid

    def _measure(self, index: int, mid: float) -> None:
        if self.initial_problem:
            return
        if self.initial is None:
            self.initial = mid
        elif self.crossing is None and crossing([self.initial, mid]):
            self.crossing = index
