"""Messages between the parent process and the worker process.

Both directions are a pipe of frames (`multiprocessing.connection.Connection`), each frame one msgpack
message. The worker sends `Ready` once, then `Batch`es of stream items, in order and without loss.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from moe_watch.backends.run_spec import RunSpec, TeacherTokens
from moe_watch.backends.scoring_messages import Score, Scored, Tokenize, Tokenized
from moe_watch.routing.events import (
    BackendInfo,
    Change,
    ForkArm,
    MaskRows,
    ModelInfo,
    ModelMemory,
    Perturbation,
    PerturbationForm,
    PerturbationSource,
    Phase,
    Progress,
    RunWarning,
    Sampling,
    State,
    TemplateSource,
    Token,
)

BackendChoice = Literal["auto", "mlx", "llama.cpp"]
PauseCause = Literal["user", "temperature", "memory"]
"""Origin of a pause: the user, or a condition of `moe_watch.routing.events.PauseConditions`."""


MeasuredVariant = Literal["bare", "tap off", "tap on"]
"""The engine's own loop; our loop with the tap off; our loop with the tap on. Our loop creates and encodes events, as
in a run."""


class EngineOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options of an engine. Fields that are None or empty are left to the engine; it refuses unsupported ones."""

    threads: int | None = None
    gpu_layers: int | None = None
    """Number of layers in GPU memory; −1 is all."""
    context: int | None = None
    """Context length in tokens."""
    batch: int | None = None
    """Maximum number of tokens in one call of the engine."""
    micro_batch: int | None = None
    """Maximum number of tokens evaluated at once."""
    mmap: bool | None = None
    """Map the model file into memory instead of reading it."""
    mlock: bool | None = None
    """Lock the model in memory, so that it is not swapped out."""
    kv_type: str | None = None
    """Data type of the KV cache, e.g. `f16`, `f32`, `q8_0`."""
    tensor_overrides: list[str] = []
    """`PATTERN=BUFFER`: buffer type for tensors with matching names, e.g. `ffn_.*_exps=CPU`."""
    experts_per_token: int | None = None
    """Experts per token in place of the model's own number."""
    trust_remote_code: bool = False
    """Run Python code from the model's folder."""


class TemplateFile(msgspec.Struct, frozen=True, kw_only=True):
    """Chat template of the user, in place of the model's."""

    name: str
    """Name of the file, without its folder."""
    source: str
    """Jinja source."""


class Load(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Load a model with an engine. The first command."""

    model: str
    backend: BackendChoice = "auto"
    options: EngineOptions = EngineOptions()
    template: TemplateFile | None = None
    """Chat template in place of the model's."""


class Start(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Begin a run in an empty context. Token indices and `t` start at 0."""

    spec: RunSpec
    seed: int
    """Seed of this run, given by `spec` or drawn."""

    @property
    def sampling(self) -> Sampling:
        """Sampler with its seed."""
        return self.spec.sampler.seeded(self.seed)


class Pause(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Pause between two tokens until `Resume`. The user's pause replaces one that the program asked for."""

    why: PauseCause = "user"
    message: str | None = None
    """One line for the user, part of the `State` event."""


class Resume(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Continue a paused run. The user's ends any pause, another one only a pause with the same cause."""

    why: PauseCause = "user"
    message: str | None = None


class Perturb(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Inject text at the next chunk boundary, or at once. A finished run is continued at once."""

    text: str
    form: PerturbationForm = "raw"
    source: PerturbationSource = "key"
    at_once: bool = False
    renders_all: bool = False
    """A turn: render the whole conversation, and cut the context where it differs. Otherwise the text is appended."""


class SetSampling(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Change the sampler for the following tokens. The random generator keeps its state."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None


class SetTap(msgspec.Struct, frozen=True, tag=True):
    """Switch the tap on or off."""

    on: bool


class SetMask(msgspec.Struct, frozen=True, tag=True):
    """Switch experts off from the next evaluation on that has not begun."""

    mask: MaskRows
    """All experts that are off; empty switches all of them on."""


class SetMultistep(msgspec.Struct, frozen=True, tag=True):
    """Switch the pause after every chunk on or off; off also ends a pause at a chunk boundary."""

    on: bool


class SetRate(msgspec.Struct, frozen=True, tag=True):
    """Limit the generation rate, tokens per second; 0 is no limit."""

    rate: float


class Measure(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Measure the speed of the model. Accepted between runs only; the answer is `Measured`."""

    variant: MeasuredVariant
    phase: Phase
    """`prefill` evaluates a prompt, `decode` generates tokens."""
    prompt: str
    """Raw text; for `prefill` it is repeated up to `tokens`."""
    tokens: int


class ShowPrompt(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Render a prompt without evaluating it; the answer is `PromptShown`."""

    spec: RunSpec
    """Options of the run that the prompt would begin."""
    turn: bool = False
    """Render the prompt as the next turn of the present conversation."""


class CheckSession(msgspec.Struct, frozen=True, tag=True):
    """Check the tokens of a recorded session with this model's tokenizer. Accepted between runs only.

    The answer is `Tokenized`: the session's own token ids, one list per context, without tokens that a turn kept.
    """

    tokens: list[TeacherTokens]


class Stop(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """End the run; the model stays loaded and another `Start` may follow."""

    why: str = "user"


class Shutdown(msgspec.Struct, frozen=True, tag=True):
    """Exit the process. The end of the pipe has the same effect."""


Command = (
    Load
    | Start
    | Pause
    | Resume
    | Perturb
    | SetSampling
    | SetTap
    | SetMask
    | SetMultistep
    | SetRate
    | Measure
    | ShowPrompt
    | Tokenize
    | Score
    | CheckSession
    | Stop
    | Shutdown
)


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The model is loaded."""

    model: ModelInfo
    backend: BackendInfo
    template: str | None
    """`chat` if the model's chat template formats prompts; None if it has no template."""
    template_source: TemplateSource | None = None
    capture: list[str]
    warnings: list[str] = []
    format_warnings: list[str] = []
    """Items of `warnings` about the chat template: `moe_watch.backends.text.format_check`."""


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Error of the worker, as one line for the user.

    A run that fails in a working process ends with a `State` of `error` instead.
    """

    message: str
    fatal: bool = True
    """The process exits, or is dead already. Otherwise one command was refused and the worker continues."""
    log: list[str] = []
    """Last lines of its output, if it died."""
    command: str = ""
    """Name of the refused command as in `moe_watch.routing.events.Refused`; empty if `fatal`. After a refused `start`
    the present run continues."""


class Measured(msgspec.Struct, frozen=True, tag=True):
    """The answer to `Measure`."""

    tokens_per_second: float


class PromptToken(msgspec.Struct, frozen=True):
    """Token of a prompt."""

    id: int
    text: str
    special: bool
    """One of the vocabulary's special or added tokens."""


class RenderedPrompt(msgspec.Struct, frozen=True, kw_only=True):
    """Prompt as a model is sent it."""

    tokens: list[PromptToken]
    template: TemplateSource | None
    """Origin of the chat template; None if the prompt is raw."""
    warnings: list[str] = []
    """Faults of its format, one line each."""
    kept: int = 0
    """Number of tokens at its beginning that are in the context already."""
    cut: int = 0
    """Number of tokens that would be removed from the context."""

    @property
    def text(self) -> str:
        """The whole text, with special tokens as they are written."""
        return "".join(token.text for token in self.tokens)


class PromptShown(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The answer to `ShowPrompt`."""

    prompt: RenderedPrompt | None = None
    problem: str = ""
    """Reason why the prompt cannot be sent, if it is None."""


class Branch(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="branch"):
    """One continuation of a forked context. Its tokens are not part of the run."""

    t: float
    arm: ForkArm
    replicate: int
    seed: int
    text: str
    tokens: list[Token]
    """Injected tokens, then one chunk of generated ones; `i` continues from the boundary."""


class MemoryCounters(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="memory"):
    """Counters of the engine's allocator, at most every second. They are part of the next `Vitals`, not of the run."""

    memory: ModelMemory


BatchItem = MemoryCounters | Token | Perturbation | State | RunWarning | Progress | Change | Branch
"""Stream item of a run; items are sent in the order of events."""


class Batch(msgspec.Struct, frozen=True, tag=True):
    """Stream items in order."""

    items: list[BatchItem]


Message = Ready | Failed | Measured | PromptShown | Tokenized | Scored | Batch

_encoder = msgspec.msgpack.Encoder()
_commands = msgspec.msgpack.Decoder(Command)
_messages = msgspec.msgpack.Decoder(Message)


def encode(message: Command | Message) -> bytes:
    """Encode one message as one frame."""
    return _encoder.encode(message)


def decode_command(frame: bytes) -> Command:
    """Decode a command from the parent."""
    command: Command = _commands.decode(frame)
    return command


def decode_message(frame: bytes) -> Message:
    """Decode a message from the worker."""
    message: Message = _messages.decode(frame)
    return message
