"""Stages of a live run. The stage alone determines the status of the run and the commands that it accepts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from moe_watch.backends.protocol import Ready
from moe_watch.routing.events import Header
from moe_watch.routing.pressure.instruments import Instruments


@dataclass(slots=True)
class CurrentRun:
    """Run in the stream."""

    header: Header
    instruments: Instruments
    ready: Ready
    """Answer of the worker that loaded the model."""
    began: float
    """Monotonic seconds."""
    tokens: int = 0
    """Number of tokens so far."""


@dataclass(frozen=True, slots=True)
class Loading:
    """The worker loads the model; there is no run."""


@dataclass(frozen=True, slots=True)
class Streaming:
    """The worker evaluates or generates tokens."""

    run: CurrentRun


@dataclass(frozen=True, slots=True)
class Paused:
    """The worker waits between two tokens, for the user or at a chunk boundary."""

    run: CurrentRun


@dataclass(frozen=True, slots=True)
class Resuming:
    """The worker was asked to continue a finished run, and has not answered yet."""

    run: CurrentRun


@dataclass(frozen=True, slots=True)
class Ending:
    """The worker was asked to end the run, and has not confirmed it yet."""

    before: Streaming | Paused | Resuming
    deadline: float
    """Monotonic seconds at which the end is recorded without the worker."""

    @property
    def run(self) -> CurrentRun:
        return self.before.run


@dataclass(frozen=True, slots=True)
class Finished:
    """The run has ended; the model waits for an injection that continues it, or for another prompt."""

    run: CurrentRun


@dataclass(frozen=True, slots=True)
class Void:
    """The run ended before its first token; the model waits for another prompt."""

    run: CurrentRun


@dataclass(frozen=True, slots=True)
class FailedRun:
    """The worker died, or this program failed; a new worker can be started."""


@dataclass(frozen=True, slots=True)
class Closed:
    """The worker and the file are closed."""


UnderWay: TypeAlias = Streaming | Paused | Resuming | Ending
"""The worker has a run."""
Idle: TypeAlias = Finished | Void
"""The worker has a model and no run."""
Stage: TypeAlias = Loading | UnderWay | Idle | FailedRun | Closed


def run_of(stage: Stage) -> CurrentRun | None:
    """Return the run of a stage; None if there is none, or if it is lost with its worker."""
    return None if isinstance(stage, Loading | FailedRun | Closed) else stage.run


def is_paused(stage: Stage) -> bool:
    """Return whether the run is paused; a paused run stays paused while it is being ended."""
    return isinstance(stage.before if isinstance(stage, Ending) else stage, Paused)
