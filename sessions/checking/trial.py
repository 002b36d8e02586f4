"""Trial of a model: load it in the worker of a run, and evaluate a few tokens."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime

import msgspec

from moe_watch.backends.protocol import Batch, BatchItem, Failed, Message, Ready, Start
from moe_watch.backends.run_spec import RunSpec, SamplerOptions
from moe_watch.backends.text.template_frame import PROBE
from moe_watch.backends.text.token_ids import NO_END_OF_TEXT
from moe_watch.backends.text.turn_check import LEFT_OUT
from moe_watch.backends.worker.process import WorkerProcess
from moe_watch.routing.events import Header, Progress, RunWarning, State, Token
from moe_watch.sessions.checking.model_files import CheckedModel
from moe_watch.sessions.checking.results import CheckResult, failure, fine, warning
from moe_watch.sessions.checking.routing import layer_check, routing_check
from moe_watch.sessions.checking.template import template_checks
from moe_watch.sessions.checking.time_limit import POLL, Cancellation
from moe_watch.sessions.live.environment import Worker, WorkerFactory
from moe_watch.sessions.live.settings import RunSettings
from moe_watch.sessions.text import plural

LOADING, TOKENS = "loading", "tokens"
GENERATED = 12
"""Tokens to generate: enough for a rate, and for routing in every layer."""
LOAD_SECONDS = 900.0
"""Longest time to load a model. A disk that reads 100 MB/s delivers 90 GB in it."""
SILENCE_SECONDS = 300.0
"""Longest time without a message of the worker while it evaluates the first tokens."""
SEED = 1
SPEC = RunSpec(prompt=PROBE, tokens=GENERATED, sampler=SamplerOptions(temperature=0.0, stop="never"), seed=SEED)

COMPARE = "to see what it changes: record two quantizations, the second with --teacher FIRST, then `moe-watch compare`"

Report = Callable[[Progress], None]


class TrialEnded(Exception):  # noqa: N818 - not an error of this program
    """The worker died, did not answer, or refused to go on; `str()` is the reason."""


@dataclass(slots=True)
class TrialRun:
    """Stream items of the trial's run."""

    tokens: list[Token] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    refusal: str = ""
    """Reason why the run could not begin or continue."""

    @property
    def sent(self) -> str:
        """Text of the prompt, as the model got it."""
        return "".join(token.text for token in self.tokens if token.source == "prompt")

    @property
    def rate(self) -> float | None:
        """Tokens per second after the first generated token; None with fewer than three."""
        times = [token.t for token in self.tokens if token.phase == "decode"]
        if len(times) < 3 or times[-1] <= times[0]:
            return None
        return (len(times) - 1) / (times[-1] - times[0])

    def feed(self, item: BatchItem) -> bool:
        """Take an item; returns whether the run has ended."""
        match item:
            case Token():
                self.tokens.append(item)
            case RunWarning():
                self.warnings.append(item.text)
            case State(state="error"):
                self.refusal = item.message or "the run failed"
                return True
            case State(state="finished"):
                return True
        return False


class Trial:
    """Worker with the model to check.

    Args:
        model: the model.
        cancellation: ends every wait.
        report: called with the progress of loading.
        worker: starts the worker.
        load_seconds: longest time to load the model.
    """

    def __init__(
        self,
        model: CheckedModel,
        cancellation: Cancellation,
        report: Report,
        *,
        worker: WorkerFactory = WorkerProcess,
        load_seconds: float = LOAD_SECONDS,
    ) -> None:
        self._settings = RunSettings(spec=SPEC, model=model.name, backend=model.backend, options=model.options)
        self._advice = f"`moe-watch memory {model.command}` lists settings that take less memory"
        self._cancellation = cancellation
        self._report = report
        self._load_seconds = load_seconds
        self._messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._factory = worker

    def checks(self) -> Iterator[CheckResult]:
        """Load the model and yield its checks. Close the iterator to end the worker early.

        Raises:
            Cancelled: the user has left.
        """
        worker = self._factory(self._messages.put)
        try:
            yield from self._checks(worker)
        except TrialEnded as ended:
            yield failure(LOADING, str(ended), self._advice)
        finally:
            worker.close()

    def _checks(self, worker: Worker) -> Iterator[CheckResult]:
        began = time.monotonic()
        worker.send(self._settings.load())
        ready = self._loaded()
        yield fine(LOADING, f"{time.monotonic() - began:.1f} s; {ready.backend.device}, {ready.backend.version}")
        yield layer_check(ready.model)
        run = self._run(worker, SPEC)
        turn, raw = run, run
        if run.refusal and ready.template is not None:
            raw = self._run(worker, msgspec.structs.replace(SPEC, raw=True))
        yield from template_checks(ready, turn.sent, turn.warnings, turn.refusal if ready.template else "")
        if raw.refusal:
            yield failure(TOKENS, raw.refusal, self._advice)
            return
        yield routing_check(raw.tokens, self._header(ready))
        yield from _facts(ready, raw)

    def _header(self, ready: Ready) -> Header:
        now = datetime.now().astimezone()
        return self._settings.header(PROBE, SPEC.sampler.seeded(SEED), ready, now)

    def _loaded(self) -> Ready:
        deadline = time.monotonic() + self._load_seconds
        while True:
            match self._next(deadline, "the model was not loaded"):
                case Ready() as ready:
                    return ready
                case Failed() as failed:
                    raise TrialEnded(failed.message)
                case Batch() as batch:
                    for item in batch.items:
                        if isinstance(item, Progress):
                            self._report(item)

    def _run(self, worker: Worker, spec: RunSpec) -> TrialRun:
        worker.send(Start(spec=spec, seed=SEED))
        run = TrialRun()
        while True:
            match self._next(time.monotonic() + SILENCE_SECONDS, "the model did not answer"):
                case Failed(fatal=True) as failed:
                    raise TrialEnded(failed.message)
                case Failed() as refused:
                    run.refusal = refused.message
                    return run
                case Batch() as batch:
                    for item in batch.items:
                        if isinstance(item, Progress):
                            self._report(item)
                        elif run.feed(item):
                            return run

    def _next(self, deadline: float, what: str) -> Message:
        """Return the worker's next message.

        Raises:
            TrialEnded: none came in time.
            Cancelled: the user has left.
        """
        began = time.monotonic()
        while True:
            self._cancellation.raise_if_cancelled()
            try:
                return self._messages.get(timeout=POLL)
            except queue.Empty:
                if (now := time.monotonic()) >= deadline:
                    raise TrialEnded(f"{what} within {now - began:.0f} s") from None


def _facts(ready: Ready, run: TrialRun) -> Iterator[CheckResult]:
    """Yield what the loaded model says of itself, and its speed."""
    if NO_END_OF_TEXT in ready.warnings:
        yield warning("end of text", "the model has no end-of-text token", "give --tokens, or stop the run yourself")
    else:
        yield fine("end of text", "known: a run can stop by itself")
    yield _context(ready)
    quantization = ready.model.quantization
    yield fine("quantization", quantization or "none", COMPARE if quantization else "")
    if run.rate is None:
        yield warning("speed", "not measured: too few tokens")
    else:
        generated = sum(token.phase == "decode" for token in run.tokens)
        yield fine("speed", f"{run.rate:.1f} tokens/s over {plural(generated, 'token')}; `moe-watch bench` measures it")
    said = [each for each in [*ready.warnings, *run.warnings] if each != NO_END_OF_TEXT and LEFT_OUT not in each]
    for each in dict.fromkeys(said):
        yield warning("model warning", each)


def _context(ready: Ready) -> CheckResult:
    length, trained = ready.model.context_length, ready.model.trained_length
    if length is None:
        return warning("context", "no length is known", "give --context N")
    of_training = "" if trained is None or trained == length else f"; trained with {trained:,}"
    return fine("context", f"{length:,} tokens{of_training}")
