"""All that a frame of the dashboard is drawn from: the run's view and the source's own status."""

from __future__ import annotations

from dataclasses import dataclass

from moe_watch.sessions.source import Ability, PaceStatus, RecordingStatus, Source, Timeline
from moe_watch.sessions.text import plural
from moe_watch.tui.state.run import RunView
from moe_watch.tui.state.status import Status
from moe_watch.tui.state.trends import Trend
from moe_watch.tui.text.format import factor
from moe_watch.tui.text.sanitize import one_line

_WHY_FINISHED = {
    "eos": "end of text",
    "length": "as many tokens as asked for",
    "context": "the context is full",
    "user": "stopped by hand",
}
EVERY_CHUNK = "multistep_chunk_complete"
"""The reference's reason for a pause that needs no other: every chunk pauses."""
_WHY_PAUSED = {
    "user": "by hand",
    "chunk": "chunk complete",
    EVERY_CHUNK: "chunk complete",
    "negative_pressure": "negative pressure",
    "fast_instability": "fast instability",
}
WHY_LIMIT = 40
"""Characters of a reason that is not one of ours."""

PATIENCE_SECONDS = 5.0
"""A worker at work that is not heard of for so long is said to be silent."""


def is_paused(pace: PaceStatus, view: RunView) -> bool:
    """Whether `resume` would do anything. A recorded pause is only told of: playback goes on through it."""
    return pace.paused or (pace.kind == "rate" and view.status == "paused")


def pause_in_words(why: str) -> str:
    """Return why a run waits; a reason that is not one of ours is shown as it is."""
    return _WHY_PAUSED.get(why, one_line(why, WHY_LIMIT))


def pace_in_words(pace: PaceStatus) -> str:
    """Return the pace that was asked for: `30 tok/s`, `2×`, `unlimited`."""
    if pace.value == 0:
        return "unlimited"
    return factor(pace.value) if pace.kind == "speed" else f"{pace.value:g} tok/s"


@dataclass(frozen=True, slots=True)
class Queued:
    """A text that waits for the chunk boundary, or for the next token."""

    label: str
    runs: int
    perturbations: int
    """How many runs and perturbations there were when it was asked for: one more, and it has arrived."""
    at_once: bool = False
    """It waits for the next token only."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One moment of the dashboard."""

    view: RunView
    recording: RecordingStatus
    pace: PaceStatus
    abilities: frozenset[Ability]
    ended: bool
    queued: Queued | None = None
    loading: str = ""
    """Name of the model that was asked for."""
    waited: float = 0.0
    """Seconds since the present stage of loading or prefill began."""
    simulated: bool = False
    silent: float = 0.0
    """Seconds since the last event of the run itself."""
    trend: Trend | None = None
    """Of the pressure trajectory on the screen."""
    timeline: Timeline | None = None
    """Of a recording that can be moved about in."""

    @classmethod
    def of(
        cls,
        view: RunView,
        source: Source,
        *,
        caught_up: bool = True,
        queued: Queued | None = None,
        waited: float = 0.0,
        simulated: bool = False,
        silent: float = 0.0,
        trend: Trend | None = None,
    ) -> Frame:
        """Read the source's status; it has not ended before `view` has `caught_up` with what it handed out."""
        return cls(
            view=view,
            recording=source.recording,
            pace=source.pace,
            abilities=source.abilities,
            ended=source.ended and caught_up,
            queued=queued,
            loading=source.loading,
            waited=waited,
            simulated=simulated,
            silent=silent,
            trend=trend,
            timeline=source.timeline,
        )

    @property
    def replay(self) -> bool:
        """The events come from a file."""
        return self.recording.mode == "replay"

    @property
    def seekable(self) -> bool:
        """Keys move in the recording."""
        return "seek" in self.abilities

    @property
    def status(self) -> Status:
        """What the run is doing; a source that was paused or has ended says so before the stream does."""
        status = self.view.status
        if status in ("failed", "finished"):
            return status
        if self.ended and self.view.header is not None:
            return "finished"
        return "paused" if self.pace.paused and status != "loading" else status

    @property
    def silence(self) -> str:
        """That a worker at work has not been heard of for too long; a replay has none that could hang."""
        at_work = self.status in ("streaming", "prefill") and not self.replay
        between_tokens = 1 / self.pace.value if self.pace.value else 0.0
        patience = max(PATIENCE_SECONDS, 2 * between_tokens)
        return f"no news for {int(self.silent)} s" if at_work and self.silent >= patience else ""

    @property
    def at_boundary(self) -> bool:
        """A chunk is complete, and the run waits."""
        return self.status == "paused" and self.view.why == "chunk"

    @property
    def resumable(self) -> bool:
        """Something waits for `resume`. A pause that is part of a recording does not."""
        return is_paused(self.pace, self.view)

    @property
    def at_end(self) -> bool:
        """A recording was played to its end, and can be played again."""
        return self.replay and self.seekable and self.ended

    @property
    def why(self) -> str:
        """Why it is paused or finished, in words; empty if nothing is known."""
        why = self.view.why or ""
        if self.status == "finished" and self.view.status != "finished":
            return "end of the recording" if self.replay else "the run has ended"
        if self.status == "finished":
            return _WHY_FINISHED.get(why, one_line(why, WHY_LIMIT))
        return pause_in_words(why) if self.status == "paused" else ""

    @property
    def pace_text(self) -> str:
        """How fast it is asked to go: `30 tok/s`, `2×`, `unlimited`."""
        return pace_in_words(self.pace)

    @property
    def queued_text(self) -> str:
        """What waits for the chunk boundary, and for how long."""
        if self.queued is None:
            return ""
        if self.status == "paused" and not self.at_boundary:
            return f"{self.queued.label} queued, waits for resume (space)"
        if self.queued.at_once or self.at_boundary:
            return f"{self.queued.label} asked for, at once"
        return f"{self.queued.label} queued for the chunk boundary, in {plural(self.view.clock.missing, 'token')}"
