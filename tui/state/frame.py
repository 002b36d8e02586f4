"""Frame: state of the run and of its source at one moment, from which the dashboard is drawn."""

from __future__ import annotations

from dataclasses import dataclass

from moe_watch.sessions.experts.importance import Importance
from moe_watch.sessions.source import (
    Ability,
    Origin,
    PaceStatus,
    Recordable,
    RecordingStatus,
    Seekable,
    Source,
    Timeline,
)
from moe_watch.sessions.text import plural
from moe_watch.tui.state.origin_words import OriginWords, words_of
from moe_watch.tui.state.pace import pace_in_words, scale_of
from moe_watch.tui.state.pressure.trends import Trend
from moe_watch.tui.state.run import RunView
from moe_watch.tui.state.snapshot import snapshot
from moe_watch.tui.state.status import Status
from moe_watch.tui.text.sanitize import one_line

_WHY_FINISHED = {
    "eos": "end of text",
    "length": "token limit reached",
    "context": "the context is full",
    "user": "stopped by the user",
}
EVERY_CHUNK = "multistep_chunk_complete"
"""Pause reason of ChronoMoE's multistep mode, which pauses after every chunk."""
_WHY_PAUSED = {
    "user": "by hand",
    "temperature": "to cool down",
    "memory": "memory pressure",
    "chunk": "chunk complete",
    EVERY_CHUNK: "chunk complete",
    "negative_pressure": "negative pressure",
    "fast_instability": "fast instability",
}
WHY_LIMIT = 40
"""Characters kept of a reason that moe-watch does not define."""

PATIENCE_SECONDS = 5.0
"""Seconds without an event after which a running worker is shown as silent."""
NOT_RECORDED = RecordingStatus("off")


def is_paused(pace: PaceStatus, view: RunView) -> bool:
    """Return whether `resume` has an effect. It has none on a recorded pause: playback continues."""
    return pace.paused or (scale_of(pace).pauses_run and view.status == "paused")


def pause_in_words(why: str) -> str:
    """Return the reason of a pause in words; one that moe-watch does not define is shown as it is."""
    return _WHY_PAUSED.get(why, one_line(why, WHY_LIMIT))


@dataclass(frozen=True, slots=True)
class Queued:
    """An injection that waits for the chunk boundary, or for the next token."""

    label: str
    runs: int
    perturbations: int
    """Numbers of runs and injections at the time of the command; one more means that the injection has arrived."""
    at_once: bool = False
    """It waits for the next token, not for the chunk boundary."""


@dataclass(frozen=True, slots=True)
class Frame:
    """Snapshot of one moment of the dashboard."""

    view: RunView
    origin: Origin
    recording: RecordingStatus
    pace: PaceStatus
    abilities: frozenset[Ability]
    ended: bool
    queued: Queued | None = None
    waited: float = 0.0
    """Seconds since the present stage of loading or prefill began."""
    simulated: bool = False
    silent: float = 0.0
    """Seconds since the last event of the run itself."""
    trend: Trend | None = None
    """Trend of the pressure trajectory on the screen."""
    timeline: Timeline | None = None
    """Extent of a recording, and the position in it."""
    importance: Importance | None = None
    """Importance of the model's experts from files, if there are any."""

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
        importance: Importance | None = None,
    ) -> Frame:
        """Take a snapshot of a run's state, and read the status of its source.

        Args:
            view: state of the run; later events do not change the frame.
            source: the present source.
            caught_up: `view` has all events that the source returned. A source has not ended before that.
            queued: the injection that waits.
            waited: seconds since the stage of loading or prefill began.
            simulated: the run is made up.
            silent: seconds since the last event of the run itself.
            trend: trend of the trajectory on the screen.
            importance: importance of the model's experts from files.
        """
        if view.window is not None:
            view.window.usage  # noqa: B018 - counts the waiting tokens once, and not again in every copy
        view.usage.settle()
        return cls(
            view=snapshot(view),
            origin=source.origin,
            recording=source.recording if isinstance(source, Recordable) else NOT_RECORDED,
            pace=source.pace,
            abilities=source.abilities,
            ended=source.ended and caught_up,
            queued=queued,
            waited=waited,
            simulated=simulated,
            silent=silent,
            trend=trend,
            timeline=source.timeline if isinstance(source, Seekable) else None,
            importance=importance,
        )

    @property
    def words(self) -> OriginWords:
        """Words that depend on the origin of the events."""
        return words_of(self.origin)

    @property
    def seekable(self) -> bool:
        """Keys seek in the recording."""
        return "seek" in self.abilities

    @property
    def status(self) -> Status:
        """Status of the run. That of a source that was paused or has ended precedes the event."""
        status = self.view.status
        if status in ("failed", "finished"):
            return status
        if self.ended and self.view.header is not None:
            return "finished"
        return "paused" if self.pace.paused and status != "loading" else status

    @property
    def silence(self) -> str:
        """Message that a worker has sent no event for too long; empty for a source without a running worker."""
        at_work = self.status in ("streaming", "prefill") and "rate" in self.abilities
        between_tokens = 1 / self.pace.value if self.pace.value else 0.0
        patience = max(PATIENCE_SECONDS, 2 * between_tokens)
        return f"no news for {int(self.silent)} s" if at_work and self.silent >= patience else ""

    @property
    def at_boundary(self) -> bool:
        """A chunk is complete, and the run waits."""
        return self.status == "paused" and self.view.why == "chunk"

    @property
    def resumable(self) -> bool:
        """The source waits for `resume`. A recorded pause does not."""
        return is_paused(self.pace, self.view)

    @property
    def at_end(self) -> bool:
        """A recording was played to its end, and can be played again."""
        return self.seekable and self.ended

    @property
    def why(self) -> str:
        """Reason of the pause, or finish reason, in words; empty if none is known."""
        why = self.view.why or ""
        if self.status == "finished" and self.view.status != "finished":
            return self.words.end
        if self.status == "finished":
            return _WHY_FINISHED.get(why, one_line(why, WHY_LIMIT))
        return pause_in_words(why) if self.status == "paused" else ""

    @property
    def pace_text(self) -> str:
        """Generation rate or playback speed as text: `30 tok/s`, `2×`, `unlimited`."""
        return pace_in_words(self.pace)

    @property
    def queued_text(self) -> str:
        """Message about an injection that waits, and the number of tokens until it arrives."""
        if self.queued is None:
            return ""
        if self.status == "paused" and not self.at_boundary:
            return f"{self.queued.label} queued, waits for resume (space)"
        if self.queued.at_once or self.at_boundary:
            return f"{self.queued.label} queued for the next token"
        return f"{self.queued.label} queued for the chunk boundary, in {plural(self.view.clock.missing, 'token')}"
