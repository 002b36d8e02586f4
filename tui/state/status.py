"""Status of a run, as its events report it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from moe_watch.routing.events import Phase, Progress, State

Status = Literal["loading", "waiting", "prefill", "streaming", "paused", "finished", "failed"]


@dataclass(frozen=True, slots=True)
class RunStatus:
    """Status of a run, with reason, error message and progress. Immutable: an event gives a new object."""

    status: Status = "loading"
    why: str | None = None
    """Reason of the last pause, or finish reason."""
    message: str | None = None
    """Message of the last error, or of the present pause."""
    progress: Progress | None = None
    """Progress of loading or prefill; None after a decode token."""

    def after_progress(self, progress: Progress, *, begun: bool) -> RunStatus:
        """Return the status after a report of progress; `begun` after the run's header."""
        status = self.status
        if progress.stage != "prefill":
            status = "loading"
        elif begun and status != "paused":
            status = "prefill"
        return replace(self, status=status, progress=progress)

    def after_token(self, phase: Phase) -> RunStatus:
        """Return the status after a token."""
        status = self.status
        if status != "paused":
            status = "streaming" if phase == "decode" else "prefill"
        progress = None if phase == "decode" else self.progress
        unchanged = status == self.status and progress is self.progress
        return self if unchanged else replace(self, status=status, progress=progress)

    def after_state(self, state: State) -> RunStatus:
        """Return the status after a state event; a fresh context and lost events leave it unchanged."""
        match state.state:
            case "paused":
                return replace(self, status="paused", why=state.why, message=state.message)
            case "resumed":
                return replace(self, status="streaming", why=None, message=None)
            case "finished":
                return replace(self, status="finished", why=state.why)
            case "error":
                return replace(self, status="failed", message=state.message or state.why)
        return self
