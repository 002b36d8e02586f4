"""What the dashboard's process and the worker process say to each other.

Both directions are a pipe of frames (`multiprocessing.connection.Connection`), each frame one msgpack
message. The worker sends `Ready` once, then `Batch`es of stream items, in order, nothing dropped.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from routing.events import (
    BackendInfo,
    ModelInfo,
    Perturbation,
    PerturbationForm,
    PerturbationSource,
    Phase,
    Progress,
    Sampling,
    State,
    Token,
)

BackendChoice = Literal["auto", "mlx", "llama.cpp"]


class Load(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The first command: which model, with which engine."""

    model: str
    backend: BackendChoice = "auto"
    threads: int | None = None


class Start(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Begin a run in an empty context. Token indices start at 0 and `t` at 0."""

    prompt: str
    sampling: Sampling
    raw: bool = False
    """Leave the prompt as it is, without the model's chat template."""
    tokens: int | None = None
    """Stop after so many decode tokens; None goes on."""
    chunk_size: int = 20
    rate: float = 0.0
    """Tokens per second at most; 0 is as fast as it goes."""
    on_full_context: Literal["restart", "finish"] = "finish"
    """At the end of the context: go on in a fresh one with the same prompt, or finish."""
    perturb: str | None = None
    """Text injected on a schedule, every `perturb_every` chunks."""
    perturb_every: int = 0


class Pause(msgspec.Struct, frozen=True, tag=True):
    """Stop between two tokens, until `Resume`."""


class Resume(msgspec.Struct, frozen=True, tag=True):
    """Go on."""


class Perturb(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Put text into the context at the next chunk boundary, or at once. After end of text: at once."""

    text: str
    form: PerturbationForm = "raw"
    source: PerturbationSource = "key"
    at_once: bool = False


class SetSampling(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Draw the following tokens differently; the seed is not set anew."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None


class SetRate(msgspec.Struct, frozen=True, tag=True):
    """Tokens per second at most; 0 is as fast as it goes."""

    rate: float


class Measure(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """How fast is this model? Heard between runs only; answered with `Measured`."""

    variant: Literal["bare", "tap", "events"]
    """The engine's own loop, ours, or ours with the events made and encoded, as for a run."""
    phase: Phase
    """A prompt evaluated (`events` is as `tap` there), or tokens generated."""
    prompt: str
    """Raw; for `prefill` repeated up to `tokens`."""
    tokens: int


class Stop(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """End the run; the model stays loaded and another `Start` may follow."""

    why: str = "user"


class Shutdown(msgspec.Struct, frozen=True, tag=True):
    """Leave the process. So does the end of the pipe."""


Command = Load | Start | Pause | Resume | Perturb | SetSampling | SetRate | Measure | Stop | Shutdown


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The model is loaded."""

    model: ModelInfo
    backend: BackendInfo
    template: str | None
    """`chat` if prompts are wrapped by the model's chat template, None if it has none."""
    capture: list[str]
    warnings: list[str] = []


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The worker cannot do what was asked: one line for the user.

    A run that cannot go on while the worker can ends with a `State` of `error` instead.
    """

    message: str
    fatal: bool = True
    """The process leaves, or is dead already. Otherwise one command was not carried out, and all else goes on."""
    log: list[str] = []
    """If it died: the last lines that it wrote."""


class Measured(msgspec.Struct, frozen=True, tag=True):
    """The answer to `Measure`."""

    tokens_per_second: float


class Batch(msgspec.Struct, frozen=True, tag=True):
    """Stream items in order."""

    items: list[Token | Perturbation | State | Progress]


Message = Ready | Failed | Measured | Batch

_encoder = msgspec.msgpack.Encoder()
_commands = msgspec.msgpack.Decoder(Command)
_messages = msgspec.msgpack.Decoder(Message)


def encode(message: Command | Message) -> bytes:
    """One message as one frame."""
    return _encoder.encode(message)


def decode_command(frame: bytes) -> Command:
    """Read what the parent sent."""
    command: Command = _commands.decode(frame)
    return command


def decode_message(frame: bytes) -> Message:
    """Read what the worker sent."""
    message: Message = _messages.decode(frame)
    return message
