"""Reader of a finished run of a measurement."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Chunk, Event, Fork, Header, Pressures, State, Token, Unknown
from moe_watch.routing.pressure.external_energy import Boundary, boundaries_of
from moe_watch.sessions.measuring.plan import Plan, PlannedRun
from moe_watch.sessions.reading.multipart import RunReader
from moe_watch.sessions.reading.recompute import Recomputed
from moe_watch.sessions.text import whole_text


class NotWholeError(Exception):
    """The file is not a whole run of this plan; `str()` gives the reason."""


@dataclass(frozen=True, slots=True)
class MeasuredChunk:
    """Complete chunk after the warm-up."""

    index: int
    """Index in the session, including the warm-up."""
    first: int
    last: int
    """Token indices `i`."""
    pressures: Pressures
    router_entropy: float
    residual: float

    @classmethod
    def of(cls, chunk: Chunk) -> MeasuredChunk | None:
        """Return the measured values of a chunk; None if a signal that pressure needs was not recorded."""
        if chunk.pressures is None or chunk.signals is None:
            return None
        return cls(chunk.index, chunk.first, chunk.last, chunk.pressures, chunk.signals.router_entropy, chunk.residual)


@dataclass(slots=True)
class RecordedRun:
    """Measured run: values per chunk, and its text."""

    planned: PlannedRun
    header: Header
    chunks: list[MeasuredChunk] = field(default_factory=list)
    prompt_tokens: int = 0
    tokens: int = 0
    """Number of generated tokens."""
    text: str = ""
    """Generated text."""
    beginning: str = ""
    """First part of the text, as used before a late twin's prompt."""
    stops: list[int] = field(default_factory=list)
    """Indices `i` of the tokens at which the model would have ended its text."""
    boundaries: list[Boundary] = field(default_factory=list)

    @property
    def mid(self) -> list[float]:
        """P_mid of the measured chunks."""
        return [chunk.pressures.mid for chunk in self.chunks]

    @property
    def entropy(self) -> list[float]:
        """Router entropy of the measured chunks."""
        return [chunk.router_entropy for chunk in self.chunks]

    def chunk_of(self, i: int) -> int | None:
        """Return the index of token `i`'s measured chunk, from 0; None for a token of the warm-up."""
        return next((at for at, chunk in enumerate(self.chunks) if chunk.first <= i <= chunk.last), None)


def read_run(folder: Path, planned: PlannedRun, plan: Plan) -> RecordedRun:
    """Read a run, and recompute its chunks from its tokens.

    Raises:
        NotWholeError: the file does not exist, is cut off, or is another run.
    """
    try:
        return _read(folder / planned.file, planned, plan)
    except UserError as error:
        raise NotWholeError(str(error)) from error


def _read(path: Path, planned: PlannedRun, plan: Plan) -> RecordedRun:
    reader = RunReader(path)
    try:
        _require_same(reader.header, planned, plan)
        gathering = _Gathering(RecordedRun(planned, reader.header))
        recomputed = Recomputed(reader.header, set())
        for event in reader:
            for each in recomputed.feed(event):
                gathering.feed(each)
        _require(not reader.torn, "its last line is cut off")
    finally:
        reader.close()
    run, ending = gathering.result(plan), gathering.ending
    _require(ending is not None and ending.why == "length", f"it ended early ({_why(ending)})")
    _require(run.tokens == plan.tokens, f"it holds {run.tokens} of {plan.tokens} tokens")
    _require(len(run.chunks) == plan.chunks, f"pressure is known for {len(run.chunks)} of {plan.chunks} chunks")
    return run


class _Gathering:
    """Collector of the measured values from a run's events."""

    def __init__(self, run: RecordedRun) -> None:
        self._run = run
        self._pieces: list[str] = []
        self._forks: list[Fork] = []
        self.ending: State | None = None

    def feed(self, event: Event | Unknown) -> None:
        if isinstance(event, Token):
            self._take_token(event)
        elif isinstance(event, Chunk) and not (event.partial or event.warm_up):
            chunk = MeasuredChunk.of(event)
            self._run.chunks += [] if chunk is None else [chunk]
        elif isinstance(event, Fork):
            self._forks.append(event)
        elif isinstance(event, State) and event.state in ("finished", "error", "dropped"):
            self.ending = event
        elif isinstance(event, State) and event.state == "fresh_context":
            raise NotWholeError("it continued in a fresh context, and a measured run is one context")

    def _take_token(self, token: Token) -> None:
        self._run.prompt_tokens += token.source == "prompt"
        if token.source == "generated":
            self._pieces.append(token.text)
        if token.would_stop:
            self._run.stops.append(token.i)

    def result(self, plan: Plan) -> RecordedRun:
        run = self._run
        run.tokens = len(self._pieces)
        run.text, run.beginning = "".join(self._pieces), "".join(self._pieces[: plan.shift])
        run.boundaries = boundaries_of(self._forks, run.planned.number)
        return run


def _require_same(header: Header, planned: PlannedRun, plan: Plan) -> None:
    _require(header.sampling == plan.sampling(planned), "it has another sampler")
    _require(header.prompt == whole_text(planned.prompt), "it has another prompt")
    _require(header.chunk_size == plan.spec.chunk_size, f"its chunks have {header.chunk_size} tokens")


def _why(ending: State | None) -> str:
    return "without a reason" if ending is None else ending.message or ending.why or ending.state


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise NotWholeError(otherwise)
