"""The chunks of one pressure mode, and what can be said of them without fitting anything."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from routing.events import Chunk, Keyframe, Perturbation
from routing.instruments import start_is_before
from routing.mid_series import MidSeries
from routing.pressure import WARM_UP_CHUNKS, crossing

CHUNKS_KEPT = 4000
INJECTIONS_KEPT = 400


@dataclass(frozen=True, slots=True)
class Injection:
    """Text put into the context before chunk `chunk`."""

    chunk: int
    i: int
    label: str
    before: Chunk | None
    """The last complete chunk before it."""


class PressureTrack:
    """P_mid by chunk, its start, its half, and the difference around the last injection."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.chunks: deque[Chunk] = deque(maxlen=CHUNKS_KEPT)
        self.injections: deque[Injection] = deque(maxlen=INJECTIONS_KEPT)
        self.seen = 0
        """Chunks so far, those no longer kept included."""
        self.complete = 0
        """Complete chunks of the run so far, those before the recording included."""
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
        self._first = 0
        """Index of the first chunk to come."""

    def begin_at(self, frame: Keyframe) -> None:
        """Go on from the state before the first token, where a recording begins, or is entered, in mid-run.

        Chunks that came before it are known if it was entered there, and nothing is missing then.
        """
        if self.chunks:
            return
        self._first = frame.chunks
        self.series.feed(frame)
        self.complete = frame.complete_chunks
        if start_is_before(frame):
            self.initial_problem = "the recording begins after it"

    def add(self, chunk: Chunk) -> None:
        """Take in the next chunk."""
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

    def inject(self, perturbation: Perturbation, label: str) -> None:
        """Text was put in after the chunks so far."""
        next_chunk = self.chunks[-1].index + 1 if self.chunks else self._first
        self.injections.append(Injection(next_chunk, perturbation.i, label, self._last_complete))
        self.after = None

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
        before = self.injections[-1].before if self.injections else None
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
