"""What the dashboard's process and the worker process say to each other.

Both directions are a pipe of frames (`multiprocessing.connection.Connection`), each frame one msgpack
message. The worker sends `Ready` once, then `Batch`es of stream items, in order, nothing dropped.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from moe_watch.routing.events import (
    BackendInfo,
    Change,
    ForkArm,
    ModelInfo,
    Perturbation,
    PerturbationForm,
    PerturbationSource,
    Phase,
    Progress,
    RunWarning,
    Sampling,
    State,
    Token,
    TokenSource,
)

BackendChoice = Literal["auto", "mlx", "llama.cpp"]


MeasuredVariant = Literal["bare", "tap off", "tap on"]
"""The engine's own loop; ours with nobody looking on; ours looking on. Ours make and encode events, as for a run."""


class EngineOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What can be told to an engine. What is None or empty the engine chooses; what it cannot do it refuses."""

    threads: int | None = None
    gpu_layers: int | None = None
    """Layers in the GPU's memory; −1 is all."""
    context: int | None = None
    """Tokens that the context holds."""
    batch: int | None = None
    """Tokens in one call of the engine at most."""
    micro_batch: int | None = None
    """Tokens evaluated at once at most."""
    mmap: bool | None = None
    """Map the model's file instead of reading it."""
    mlock: bool | None = None
    """Keep the model's memory from being swapped out."""
    kv_type: str | None = None
    """Type of the KV cache's numbers, e.g. `f16`, `f32`, `q8_0`."""
    tensor_overrides: list[str] = []
    """`PATTERN=BUFFER`: where tensors whose names match are kept, e.g. `ffn_.*_exps=CPU`."""
    trust_remote_code: bool = False
    """Run Python code that the model brings along."""


class Load(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The first command: which model, with which engine."""

    model: str
    backend: BackendChoice = "auto"
    options: EngineOptions = EngineOptions()


class ForkPlan(msgspec.Struct, frozen=True, kw_only=True):
    """At every so many chunk boundaries, what the next chunk would be without text, with neutral text, and with text.

    docs/measurements.md, "Perturbation".
    """

    text: str
    neutral: str
    """Cut or repeated to as many tokens as `text` has."""
    form: PerturbationForm = "raw"
    replicates: int = 8
    """Continuations of each arm, with independent seeds."""
    every: int = 1
    """Chunks from one forked boundary to the next."""
    first: int = 0
    """Complete chunks before the first forked boundary."""


class TeacherTokens(msgspec.Struct, frozen=True):
    """Successive tokens of another session that this run is to take."""

    source: TokenSource
    ids: list[int]
    text: str
    """What they stood for: another tokeniser's ids would mean something else."""


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
    multistep: bool = False
    """Pause after every chunk until `Resume` or `Perturb`."""
    forks: ForkPlan | None = None
    teacher: list[TeacherTokens] = []
    """Take these tokens instead of the prompt's and of drawing; the run ends with them."""


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


class SetTap(msgspec.Struct, frozen=True, tag=True):
    """Observe routing, or leave it alone: what does watching cost?"""

    on: bool


class SetMultistep(msgspec.Struct, frozen=True, tag=True):
    """Pause after every chunk, or no longer; switched off, a pause at a chunk's end is over."""

    on: bool


class SetRate(msgspec.Struct, frozen=True, tag=True):
    """Tokens per second at most; 0 is as fast as it goes."""

    rate: float


class Measure(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """How fast is this model? Heard between runs only; answered with `Measured`."""

    variant: MeasuredVariant
    phase: Phase
    """A prompt evaluated, or tokens generated."""
    prompt: str
    """Raw; for `prefill` repeated up to `tokens`."""
    tokens: int


class Stop(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """End the run; the model stays loaded and another `Start` may follow."""

    why: str = "user"


class Shutdown(msgspec.Struct, frozen=True, tag=True):
    """Leave the process. So does the end of the pipe."""


Command = (
    Load | Start | Pause | Resume | Perturb | SetSampling | SetTap | SetMultistep | SetRate | Measure | Stop | Shutdown
)


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
    command: str = ""
    """Which command was not carried out, as `moe_watch.routing.events.Refused` names it; empty if `fatal`. After
    `start` the run before it goes on."""


class Measured(msgspec.Struct, frozen=True, tag=True):
    """The answer to `Measure`."""

    tokens_per_second: float


class Branch(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="branch"):
    """One continuation of a forked context. Its tokens are no part of the run."""

    t: float
    arm: ForkArm
    replicate: int
    seed: int
    text: str
    tokens: list[Token]
    """Injected ones, then one chunk of generated ones; `i` goes on from the boundary."""


BatchItem = Token | Perturbation | State | RunWarning | Progress | Change | Branch
"""What a run sends, in the order in which it happened."""


class Batch(msgspec.Struct, frozen=True, tag=True):
    """Stream items in order."""

    items: list[BatchItem]


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
