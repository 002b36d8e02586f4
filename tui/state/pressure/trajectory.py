"""Trajectory of one pressure mode: its chunks, its start, its contexts and injections. Nothing is fitted here."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from dataclasses import dataclass, replace
from operator import attrgetter

import msgspec

from moe_watch.routing.events import Change, Chunk, Keyframe, Perturbation, State
from moe_watch.routing.half_life.series import MidSeries
from moe_watch.routing.pressure.formulas import CONTEXT_MODES, WARM_UP_CHUNKS
from moe_watch.routing.pressure.instruments import complete_chunks, lacks_start
from moe_watch.tui.state.pressure.injections import InjectionHistory, InjectionPoint
from moe_watch.tui.state.pressure.mask_changes import MaskChanges
from moe_watch.tui.state.pressure.measured_start import MeasuredStart
from moe_watch.tui.text.format import count

CHUNKS_KEPT = 4000
RESTARTS_KEPT = 400


@dataclass(frozen=True, slots=True)
class Restart:
    """A fresh context that begins before chunk `chunk`."""

    chunk: int
    i: int
    context: int
    """Number of the context, from 0."""


class PressureTrack:
    """P_mid by chunk, its start, and the chunks around the last injection. The start belongs to the current context.

    For a snapshot: `start` is immutable; `chunks` and `restarts` are bounded deques of immutable items, of which the
    last restart may be replaced, so `tuple()` of one is a snapshot; `series` only grows.
    """

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.chunks: deque[Chunk] = deque(maxlen=CHUNKS_KEPT)
        self.injections = InjectionHistory()
        self.mask_changes = MaskChanges()
        self.restarts: deque[Restart] = deque(maxlen=RESTARTS_KEPT)
        self.start = MeasuredStart()
        self.series = MidSeries(mode)
        """Input of a fit."""
        self.seen = 0
        """Number of chunks so far, dropped ones included."""
        self.complete = 0
        """Number of complete chunks, which first count as warm-up: of the current context, or of the run in a mode that
        does not begin again with a fresh context. Chunks before the recording are included."""
        self.entered_at: int | None = None
        """Token from which on chunks are computed here, after a seek past the earlier ones."""
        self.next_chunk = 0
        """Index of the next chunk."""
        self._first_chunk: int | None = None
        """Index of the first chunk that was added."""

    def begin_at(self, frame: Keyframe, *, recorded: bool = True) -> None:
        """Continue from a keyframe where a recording begins in mid-run, or where a seek led.

        Args:
            frame: the state before the first token.
            recorded: False for chunks that are computed here; they are missing before a seek.
        """
        beginning = self._beginning(frame)
        self.next_chunk = frame.chunks
        self.complete = complete_chunks(frame, self.mode)
        if beginning is not None:
            self._begin_after(beginning)
        if not recorded:
            self.entered_at = frame.i

    def _beginning(self, frame: Keyframe) -> Keyframe | None:
        """Return the state at the first known chunk; None if the context begins there."""
        if self._first_chunk is None:
            return frame
        if not self._first_chunk or self.restarts:
            return None
        unknown = complete_chunks(frame, self.mode) - self.complete
        in_context = None if frame.context_chunks is None else unknown
        return msgspec.structs.replace(
            frame, chunks=self._first_chunk, complete_chunks=unknown, context_chunks=in_context
        )

    def _begin_after(self, beginning: Keyframe) -> None:
        """Measure nothing against a start before the first known chunk."""
        self.series.feed(beginning)
        if lacks_start(beginning, self.mode):
            self.start = MeasuredStart(problem="the recording begins after it")

    @property
    def unavailable(self) -> str:
        """Reason why nothing can be fitted; empty if it can."""
        if self.entered_at is not None and self.start.problem:
            return f"no P₀: computed from token {count(self.entered_at)} on, after a seek"
        return self.series.unavailable

    def add(self, chunk: Chunk) -> None:
        """Process the next chunk."""
        self._first_chunk = chunk.index if self._first_chunk is None else self._first_chunk
        self.next_chunk = chunk.index + 1
        self.chunks.append(chunk)
        self.series.feed(chunk)
        self.seen += 1
        if chunk.partial:
            return
        self.complete += 1
        self.injections.add_complete(chunk)
        if chunk.pressures is not None and not chunk.warm_up:
            self.start = self.start.after(chunk.index, chunk.pressures.mid)

    def begin_context(self, state: State) -> None:
        """Begin again with a fresh context: earlier measurements belong to the context before."""
        self.series.feed(state)
        self.restarts.append(Restart(self.next_chunk, state.i, self.series.current.number))
        self.injections.begin_context()
        self.start = MeasuredStart()
        if self.mode in CONTEXT_MODES:
            self.complete = 0

    def inject(self, perturbation: Perturbation, label: str, before_chunk: int) -> None:
        """Process an injection before the chunk with this index."""
        self.injections.add(perturbation, label, before_chunk)

    def change_mask(self, change: Change, before_chunk: int) -> None:
        """Begin again with another mask: earlier measurements belong to the mask before."""
        self.mask_changes.add(change.i, before_chunk)
        self.series.feed(change)
        if change.i:
            self.injections.begin_context()
            self.start = MeasuredStart()

    def move_behind(self, cut: Chunk) -> None:
        """Move the last injection, mask change and restart behind the chunk they cut short, whose event comes after."""
        self.injections.move_behind(cut)
        self.mask_changes.move_behind(cut)
        restart = self.restarts[-1] if self.restarts else None
        if restart is not None and restart.chunk <= cut.index and cut.last < restart.i:
            self.restarts[-1] = replace(restart, chunk=cut.index + 1)

    @property
    def last_injection(self) -> InjectionPoint | None:
        """The last injection, if it is in the current context, and came after the last change of the mask."""
        last = self.injections.last
        begins = max((points[-1].i for points in (self.restarts, self.mask_changes.points) if points), default=0)
        return None if last is None or last.i < begins else last

    @property
    def delta(self) -> float | None:
        """P_mid of the complete chunk after the last injection minus that before it; None without a last injection."""
        return None if self.last_injection is None else self.injections.delta

    def averaged(self, chunk: Chunk) -> int:
        """Return the number of tokens that this mode's moving averages include at the end of a chunk."""
        before = bisect_right(self.restarts, chunk.first, key=attrgetter("i")) if self.mode in CONTEXT_MODES else 0
        return chunk.last - (self.restarts[before - 1].i if before else 0)

    @property
    def warm_up_missing(self) -> int:
        """Number of complete chunks still needed before the first measured one."""
        return max(0, WARM_UP_CHUNKS - self.complete)
