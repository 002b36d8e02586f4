"""Pressure of a run in its recorded mode, and in one that is computed from its tokens."""

from __future__ import annotations

from collections import deque

import msgspec

from moe_watch.routing.chunks import ChunkClock
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Change, Chunk, Event, Fork, Header, Keyframe, Perturbation, State
from moe_watch.routing.pressure.formulas import MODES
from moe_watch.routing.pressure.instruments import CUTTING_STATES, Instruments
from moe_watch.tui.state.pressure.injections import injection_label
from moe_watch.tui.state.pressure.trajectory import PressureTrack

FORKS_KEPT = 20_000


class RunPressure:
    """Trajectories of a run by pressure mode, its forks, and the progress of the current chunk.

    `forks` is a bounded deque of immutable events, to which new ones are appended: `tuple(forks)` is a snapshot.
    `clock` is mutable: a snapshot keeps `clock.missing`.

    Args:
        header: of the run; None before it, when there are no trajectories.
    """

    def __init__(self, header: Header | None = None) -> None:
        self.recorded = MODES[0] if header is None else header.pressure
        """The mode of the recorded chunks."""
        self.other = MODES[0] if self.recorded == MODES[-1] else MODES[-1]
        """The mode that was not recorded and is computed here."""
        self.tracks: dict[str, PressureTrack] = {}
        self.forks: deque[Fork] = deque(maxlen=FORKS_KEPT)
        """Forks without their texts."""
        self.clock = ChunkClock(1 if header is None else header.chunk_size)
        self.problem: str | None = None
        """Reason why the other mode cannot be computed."""
        self._instruments: Instruments | None = None
        if header is not None:
            self.tracks = {mode: PressureTrack(mode) for mode in (header.pressure, *MODES)}
            try:
                self._instruments = Instruments(header, mode=self.other, keyframes=False)
            except UserError as error:
                self.problem = str(error)

    @property
    def chunks(self) -> int:
        """Number of chunks so far."""
        return self.tracks[self.recorded].seen if self.tracks else 0

    def derive(self, event: Event) -> None:
        """Compute the chunks of the mode that was not recorded."""
        if self._instruments is None:
            return
        for derived in self._instruments.feed(event):
            if isinstance(derived, Chunk):
                self.tracks[self._instruments.mode].add(derived)

    def add_recorded(self, chunk: Chunk) -> None:
        """Process the next recorded chunk."""
        if self.tracks:
            self.tracks[self.recorded].add(chunk)
        for track in self.tracks.values():
            track.move_behind(chunk)

    def add_fork(self, fork: Fork) -> None:
        """Append a fork without its texts."""
        self.forks.append(msgspec.structs.replace(fork, text="", injected=[], generated=[], signals=None))

    def inject(self, perturbation: Perturbation) -> None:
        """Process an injection, which cuts the chunk short."""
        self.clock.cut()
        self.derive(perturbation)
        if not self.tracks:
            return
        label, before_chunk = injection_label(perturbation), self.tracks[self.recorded].next_chunk
        for track in self.tracks.values():
            track.inject(perturbation, label, before_chunk)

    def change_mask(self, change: Change) -> None:
        """Process a change of the mask, which cuts the chunk short."""
        self.clock.cut()
        if not self.tracks:
            return
        before_chunk = self.tracks[self.recorded].next_chunk
        for track in self.tracks.values():
            track.change_mask(change, before_chunk)

    def change_state(self, state: State) -> None:
        """Process a state event; some states cut the chunk short, and a fresh context begins new trajectories."""
        if state.state in CUTTING_STATES:
            self.clock.cut()
        self.derive(state)
        if state.state == "fresh_context":
            for track in self.tracks.values():
                track.begin_context(state)

    def begin_at(self, keyframe: Keyframe, *, jumped: bool) -> None:
        """Continue from a keyframe where a recording begins in mid-run, or where a seek led.

        Args:
            keyframe: the state there.
            jumped: after a seek; chunks that are computed here are then missing before it.
        """
        self.clock.filled = keyframe.open_chunk.tokens if keyframe.open_chunk else 0
        for mode, track in self.tracks.items():
            track.begin_at(keyframe, recorded=mode == self.recorded or not jumped)
