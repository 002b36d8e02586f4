"""Interfaces between a source of events and the dashboard.

A live run (`sessions/live/source.py`) and a replay (`sessions/replaying/source.py`) are both a `Source`. Each also has
the narrow interfaces below that apply to it: a live run is `Steerable` and `Recordable`, a replay is `Seekable` and
`Searchable`. `abilities` lists the commands that have an effect now.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from moe_watch.backends.protocol import PromptShown
from moe_watch.routing.events import Change, Marker, Perturbation, PerturbationForm, StreamItem
from moe_watch.routing.router.masks import ExpertMask

Ability = Literal[
    "pause",
    "perturb",
    "turn",
    "prompt",
    "rate",
    "speed",
    "seek",
    "record",
    "mark",
    "restart",
    "tap",
    "multistep",
    "mask",
]
"""`rate`: tokens per second of a generation; `speed`: playback speed. No source has both."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Origin of a source's events: a model that runs now, or a session file."""

    kind: Literal["model", "session"]
    model: str = ""
    """Model as the user typed it; empty for a session file."""
    name: str = ""
    """Name of the session file without its folder."""
    path: str = ""
    """Path of the session file; empty for standard input."""
    bytes: int = 0
    """Size of the session file, up to its last whole line."""


@dataclass(frozen=True, slots=True)
class RecordingStatus:
    """Status of a recording, as the header bar shows it."""

    mode: Literal["recording", "off", "failed"]
    name: str = ""
    """File name without its folder."""
    path: str = ""
    bytes: int = 0
    problem: str = ""
    """For `failed`: the reason, and the token since which nothing is recorded."""


@dataclass(frozen=True, slots=True)
class PaceStatus:
    """Generation rate of a run, or playback speed of a replay."""

    kind: Literal["rate", "speed"]
    value: float
    """Tokens per second, or recorded seconds per second; 0 is unlimited."""
    paused: bool


JumpUnit = Literal["token", "time", "chunk", "mark", "perturbation"]


@dataclass(frozen=True, slots=True)
class Jump:
    """Target of a seek. Values beyond either end are clamped to it.

    A position is always between two tokens. At token 7, everything before that token has been shown, with the markers
    and injections between tokens 6 and 7; at a chunk, marker or injection, that event has been shown last.
    """

    unit: JumpUnit
    to: float
    """Token index, seconds, chunk index, or the number of a marker or injection from 0; infinity is the end."""
    relative: bool = False
    """`to` counts from the present position: -1 is the one before."""


HOME = Jump("token", 0)
END = Jump("token", float("inf"))
STEP = Jump("token", 1, relative=True)
BACK = Jump("token", -1, relative=True)


@dataclass(frozen=True, slots=True)
class Timeline:
    """Extent of a recording, as far as it is known, and the present position in it."""

    first: int
    """Index of its first token."""
    tokens: int
    """Index after its last token."""
    seconds: float
    """Time of its last token."""
    position: int
    """Index of the next token."""
    time: float
    """Seconds, of the event that was shown last."""
    chunks: int
    marks: Sequence[Marker]
    """Markers in order, each with its token index and time."""
    perturbations: Sequence[Perturbation]
    masks: Sequence[Change] = ()
    """Changes of the mask in order."""


class PendingPreview(Protocol):
    """Request for a rendered prompt."""

    @property
    def answer(self) -> PromptShown | None:
        """None until it has come."""


class Source(Protocol):
    """A stream of events. Every method returns at once; its effect arrives as events."""

    @property
    def abilities(self) -> frozenset[Ability]:
        """Commands that have an effect now."""

    @property
    def origin(self) -> Origin:
        """Origin of the events."""

    @property
    def pace(self) -> PaceStatus: ...

    @property
    def ended(self) -> bool:
        """The run has no further event unless a command is given; vitals may still come."""

    @property
    def warnings(self) -> list[str]:
        """Warnings about the model or the file, one line each; more may follow."""

    def start(self) -> None:
        """Spawn the worker or open the file. Only the first call has an effect.

        Raises:
            UserError: it cannot begin.
        """

    def drain(self) -> list[StreamItem]:
        """Return the events that arrived since the last call, in order; a `Header` begins a new run."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def set_pace(self, value: float) -> None:
        """Change `pace.value`."""

    def close(self) -> None:
        """End the run, close the file and release the worker. A second call has no effect."""


@runtime_checkable
class Steerable(Protocol):
    """A source with a model, which takes commands."""

    def perturb(self, text: str, *, form: PerturbationForm = "raw", at_once: bool = False) -> None:
        """Inject a text at the next chunk boundary, or at once."""

    def turn(self, text: str) -> None:
        """Ask the next turn of the conversation, at once.

        The whole conversation is rendered, and the context is cut where it differs.
        """

    def preview(self, text: str, *, turn: bool) -> PendingPreview:
        """Render a prompt, or the next turn, without sending it."""

    def prompt(self, text: str) -> None:
        """End this run and begin another one with this prompt, in an empty context."""

    def set_tap(self, on: bool) -> None:
        """Switch the tap; a `Change` event reports when it takes effect."""

    def set_multistep(self, on: bool) -> None:
        """Pause after every chunk, or not; a `Change` event reports when it takes effect."""

    def mask(self, mask: ExpertMask) -> None:
        """Switch these experts off and all others on; a `Change` event reports when it takes effect.

        A mask that is refused gives a `Refused` event.
        """

    def restart(self) -> None:
        """Begin again with a new worker, after the old one died."""


@runtime_checkable
class Recordable(Protocol):
    """A source whose events can be recorded."""

    @property
    def recording(self) -> RecordingStatus: ...

    def set_recording(self, on: bool) -> None: ...

    def mark(self, note: str) -> None:
        """Add a marker at the present token."""


@runtime_checkable
class Seekable(Protocol):
    """A source with positions to seek to."""

    @property
    def timeline(self) -> Timeline | None:
        """Extent of the recording and the position in it; None while no token is known."""

    def seek(self, jump: Jump) -> None:
        """Go to another position.

        A step of one token forward continues the stream. Any other seek begins it again: a `Header`, then all events
        that a screen needs to show what it would show after playing up to there.
        """
