"""What observing costs: the engine's own loop, ours, and ours recorded, in turn, in one worker process."""

from __future__ import annotations

import queue
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Literal, TypeVar

from backends.process import WorkerProcess
from backends.protocol import Batch, Command, Failed, Load, Measure, Measured, Message, Ready, Stop
from routing.errors import UserError
from routing.events import Cost, Phase, Progress, State, Token
from routing.ratios import Ratio, interleave, ratio
from sessions.headless import run_headless
from sessions.live import LiveSource
from sessions.live_run import Surroundings
from sessions.reader import read_session
from sessions.run_settings import RunSettings

FEWEST_TOKENS = 20
"""A recording's times are whole milliseconds, and of fewer tokens a rate could not be told."""
PREFILL_TOKENS = 256
WARM_UP_ROUNDS = 1

Answer = TypeVar("Answer", Ready, Measured)
OnMessage = Callable[[Message], None]
Variant = tuple[Phase, str]
"""A phase, and the name of what is measured in it; the first one of each phase is what the others are compared to."""


@dataclass(frozen=True, slots=True)
class Row:
    """One variant's rates over all rounds."""

    phase: Phase
    name: str
    rates: Sequence[float]
    """Tokens per second [rounds]."""
    ratio: Ratio
    """To `bare` in the same phase."""

    @property
    def tokens_per_second(self) -> float:
        return statistics.median(self.rates)


class Bench:
    """A worker with a loaded model, and the measurements that it takes. Use as a context manager.

    Args:
        settings: model, engine, prompt, and how many tokens to generate in a measurement.
        on_progress: told how loading goes, on any thread.

    Raises:
        UserError: on entering, the model cannot be used; later, a measurement failed. The worker's death is one too.
    """

    ready: Ready

    def __init__(self, settings: RunSettings, on_progress: Callable[[Progress], None]) -> None:
        self._settings = replace(settings, raw=True, stop="never", force=True, recording_required=True)
        self._on_progress = on_progress
        self._answers: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._live: OnMessage | None = None
        """The live run that the worker's messages are for, while there is one."""

    def __enter__(self) -> Bench:
        load = self._settings.load()
        self._worker = WorkerProcess(self._receive)
        try:
            self._worker.send(load)
            self.ready = self._await(Ready)
        except BaseException:
            self._worker.close()
            raise
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        self._worker.close()

    def run(self, rounds: int, on_measured: Callable[[], None]) -> list[Row]:
        """Measure everything in so many rounds, after one to warm up.

        Args:
            rounds: at least 2, so that there is an interval.
            on_measured: called after every measurement; there are `measurements(rounds)`.
        """

        def noted(measure: Callable[[], float]) -> Callable[[], float]:
            def measure_and_note() -> float:
                rate = measure()
                on_measured()
                return rate

            return measure_and_note

        with TemporaryDirectory(prefix="moe-watch-bench-") as name:
            variants = {variant: noted(measure) for variant, measure in self._variants(Path(name)).items()}
            rates = interleave(variants, rounds, warm_up=WARM_UP_ROUNDS)
        return [Row(*variant, taken, ratio(taken, rates[variant[0], "bare"])) for variant, taken in rates.items()]

    def measurements(self, rounds: int) -> int:
        """How many measurements `run` takes."""
        return len(self._variants(Path())) * (rounds + WARM_UP_ROUNDS)

    def _variants(self, folder: Path) -> dict[Variant, Callable[[], float]]:
        """What is measured, those first that say at once whether so many tokens can be generated."""
        return {
            ("decode", "bare"): lambda: self._measure("bare", "decode"),
            ("decode", "tap"): lambda: self._measure("tap", "decode"),
            ("decode", "tap + events"): lambda: self._measure("events", "decode"),
            ("decode", "tap + recording"): lambda: self._record(folder / "bench.moe.jsonl"),
            ("prefill", "bare"): lambda: self._measure("bare", "prefill"),
            ("prefill", "tap"): lambda: self._measure("tap", "prefill"),
        }

    def _measure(self, variant: Literal["bare", "tap", "events"], phase: Phase) -> float:
        tokens = PREFILL_TOKENS if phase == "prefill" else self._settings.tokens
        assert tokens is not None
        self._worker.send(Measure(variant=variant, phase=phase, prompt=self._settings.prompt, tokens=tokens))
        return self._await(Measured).tokens_per_second

    def _record(self, path: Path) -> float:
        """A whole run without a screen, on the worker that is loaded already; its rate by the recording's times."""
        settings = replace(self._settings, output=path)
        source = LiveSource(settings, Surroundings(worker=lambda on_message: _LoadedWorker(self, on_message)))
        states: list[State] = []
        run_headless(source, lambda item: states.append(item) if isinstance(item, State) else None)
        if source.fatal_error is not None:
            raise source.fatal_error
        if source.recording.problem:
            raise UserError(source.recording.problem, advice="make room for temporary files")
        if states[-1].state == "error":
            raise UserError(states[-1].message or "the run failed")
        if states[-1].why == "user":
            raise KeyboardInterrupt
        return recorded_rate(path)

    # -- the worker

    def _receive(self, message: Message) -> None:
        if isinstance(message, Batch) and self._live is None:
            for item in message.items:
                if isinstance(item, Progress):
                    self._on_progress(item)
        else:
            (self._live or self._answers.put)(message)

    def _await(self, kind: type[Answer]) -> Answer:
        while True:
            message = self._answers.get()
            if isinstance(message, kind):
                return message
            if isinstance(message, Failed):
                raise UserError(message.message)


class _LoadedWorker:
    """The bench's worker as a live run sees it: loaded already, and it outlives the run."""

    def __init__(self, bench: Bench, on_message: OnMessage) -> None:
        self._bench = bench
        self._on_message = on_message
        bench._live = on_message

    @property
    def pid(self) -> int:
        return self._bench._worker.pid

    def send(self, command: Command) -> None:
        if isinstance(command, Load):
            self._on_message(self._bench.ready)
        else:
            self._bench._worker.send(command)

    def close(self) -> None:
        """Have the worker leave the finished run, so that it hears of measurements again."""
        self._bench._live = None
        self._bench._worker.send(Stop())


def recorded_rate(path: Path) -> float:
    """Decode tokens per second of a recording, by its own times."""
    times = [event.t for event in read_session(path) if isinstance(event, Token) and event.phase == "decode"]
    return (len(times) - 1) / (times[-1] - times[0])


def cost_of(rows: Sequence[Row]) -> Cost:
    """The cost of the tap, as a header carries it."""
    decode = {row.name: row for row in rows if row.phase == "decode"}
    bare, tap = decode["bare"], decode["tap"]
    against = tap.ratio
    return Cost(
        tap_off=bare.tokens_per_second,
        tap_on=tap.tokens_per_second,
        ratio=against.value,
        interval=(against.low, against.high),
    )
