"""What the dashboard knows of where its events come from.

A live run (`sessions/live/source.py`) and a replay (`sessions/replaying/source.py`) are both a `Source`. Nothing above
asks which one it is: what a source cannot do, its `abilities` leave out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from moe_watch.routing.events import Marker, Perturbation, PerturbationForm, StreamItem

Ability = Literal[
    "pause", "perturb", "turn", "prompt", "rate", "speed", "seek", "record", "mark", "restart", "tap", "multistep"
]
"""`rate`: tokens per second of a generation; `speed`: a factor on recorded time. Never both."""


@dataclass(frozen=True, slots=True)
class RecordingStatus:
    """What the header bar says about the file. All of it may change from one frame to the next."""

    mode: Literal["recording", "replay", "off", "failed"]
    name: str = ""
    """File name without its folder."""
    path: str = ""
    bytes: int = 0
    problem: str = ""
    """For `failed`: why nothing is recorded, and since which token."""


@dataclass(frozen=True, slots=True)
class PaceStatus:
    """How fast the source is asked to go."""

    kind: Literal["rate", "speed"]
    value: float
    """Tokens per second, or the factor on recorded time; 0 is as fast as it goes."""
    paused: bool


JumpUnit = Literal["token", "time", "chunk", "mark", "perturbation"]


@dataclass(frozen=True, slots=True)
class Jump:
    """Where in a recording to go. What lies beyond either end is that end.

    One is always between two tokens: at token 7 one has seen everything before it, marks and injections that stand
    there included; at a chunk, mark or injection one has just seen it.
    """

    unit: JumpUnit
    to: float
    """Token index, seconds, chunk index, or the number of a mark or injection from 0; infinity is the end."""
    relative: bool = False
    """`to` counts from here: -1 is the one before."""


HOME = Jump("token", 0)
END = Jump("token", float("inf"))
STEP = Jump("token", 1, relative=True)
BACK = Jump("token", -1, relative=True)


@dataclass(frozen=True, slots=True)
class Timeline:
    """How long a recording is, as far as it is known, and where in it one is."""

    first: int
    """Index of its first token."""
    tokens: int
    """Index behind its last token."""
    seconds: float
    """Time of its last token."""
    position: int
    """Index of the next token to come."""
    time: float
    """Seconds, of what was shown last."""
    chunks: int
    marks: Sequence[Marker]
    """In order, each with its token index and time."""
    perturbations: Sequence[Perturbation]


class Source(Protocol):
    """A run in progress. Every method returns at once; what it does arrives as events."""

    @property
    def abilities(self) -> frozenset[Ability]:
        """What can be done now."""

    @property
    def loading(self) -> str:
        """Name of the model that was asked for, as it was typed; empty for a recording."""

    @property
    def recording(self) -> RecordingStatus: ...

    @property
    def pace(self) -> PaceStatus: ...

    @property
    def ended(self) -> bool:
        """No further event of the run will come unless something is asked for; vitals may."""

    @property
    def warnings(self) -> list[str]:
        """What the person should know about the model or the file, one line each; more may come."""

    @property
    def timeline(self) -> Timeline | None:
        """The recording's extent and the position in it; None where there is no recording to move in."""

    def start(self) -> None:
        """Begin: spawn the worker or open the file. Only the first call does anything.

        Raises:
            UserError: it cannot begin.
        """

    def drain(self) -> list[StreamItem]:
        """Everything that arrived since the last call, in order; a `Header` begins a new run."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def perturb(self, text: str, *, form: PerturbationForm = "raw", at_once: bool = False) -> None:
        """Put text into the context at the next chunk boundary, or at once."""

    def set_tap(self, on: bool) -> None:
        """Observe routing, or leave it alone; a `Change` says when that begins to hold."""

    def set_multistep(self, on: bool) -> None:
        """Pause after every chunk, or no longer; a `Change` says when that begins to hold."""

    def prompt(self, text: str) -> None:
        """End this run and begin another one with this prompt, in an empty context."""

    def set_pace(self, value: float) -> None:
        """Change `pace.value`."""

    def seek(self, jump: Jump) -> None:
        """Go elsewhere in the recording.

        A step of one token forward goes on with the stream. Any other jump begins it anew: a `Header`, then all that
        a screen needs to be what it would be had it played up to there.
        """

    def set_recording(self, on: bool) -> None: ...

    def mark(self, note: str) -> None: ...

    def restart(self) -> None:
        """After the worker died: begin again with a new one."""

    def close(self) -> None:
        """End the run, close the file, let go of the worker. Safe to call twice."""
