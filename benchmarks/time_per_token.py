"""Time of each step of observation per generated token, on llama.cpp.

python -m benchmarks.time_per_token [MODEL.gguf …]

First the time of the thread that runs the model, beside the engine's own loop, and the number of its waits for other
threads. Then each step, as lower quartiles, timed at its place in the loop: after an evaluation the processor's caches
hold the model, and the same Python takes two to three times its time in a separate loop.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import resource
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from itertools import islice
from multiprocessing import Pipe
from pathlib import Path
from threading import Thread
from typing import TypeVar, get_args

import numpy as np

from moe_watch.backends.generation.observation import Evaluated, Observer, TokenFacts
from moe_watch.backends.generation.outbox import LARGEST_BATCH, LONGEST_WAIT
from moe_watch.backends.llama.context import evaluate
from moe_watch.backends.llama.engine import LlamaEngine
from moe_watch.backends.model_files import catalog
from moe_watch.backends.protocol import Batch, EngineOptions, MeasuredVariant, Ready, decode_message, encode
from moe_watch.backends.worker.main import GIVE_WAY
from moe_watch.backends.worker.throughput import SAMPLING, _Loop
from moe_watch.routing.events import Token
from moe_watch.routing.pressure.instruments import Instruments
from moe_watch.routing.stats.timing_noise import in_words
from moe_watch.sessions.live.settings import RunSettings
from moe_watch.sessions.recording.recorder import Recorder
from moe_watch.vitals.noise import NoiseMeter

PROMPT = "def parse_"
FEWEST = 60
"""Smallest number of tokens in one measurement of the model's thread."""
LONG_ENOUGH = 200_000
"""Shortest measurement, µs."""
USUAL = 0.98
"""Share of the tokens that count for the thread's time: interruptions by the machine take milliseconds each."""
VARIANTS: tuple[MeasuredVariant, ...] = get_args(MeasuredVariant)
Result = TypeVar("Result")


class Stopwatch:
    """Timer of named steps."""

    def __init__(self) -> None:
        self._seconds: dict[str, list[float]] = defaultdict(list)

    def time(self, name: str, step: Callable[[], Result], tokens: int = 1) -> Result:
        """Run a step, and store its time per token."""
        began = time.perf_counter()
        result = step()
        self._seconds[name].append((time.perf_counter() - began) / tokens)
        return result

    def lines(self) -> list[str]:
        """Return the rows of a Markdown table, in µs."""
        return [f"| {name} | {1e6 * np.percentile(taken, 25):.1f} |" for name, taken in self._seconds.items()]


# -- the model's thread as a whole


class ModelThread:
    """Meter of the time per token of the thread that runs the model.

    Args:
        engine: with a loaded model.
    """

    def __init__(self, engine: LlamaEngine) -> None:
        self._engine = engine
        self._bare = engine.bare()
        self.pace = self.measure("bare", FEWEST)[0]
        """µs per token, bare."""

    def table(self, rounds: int) -> str:
        """Return a table of medians over rounds."""
        tokens = max(FEWEST, math.ceil(LONG_ENOUGH / self.pace))
        taken: dict[MeasuredVariant, list[tuple[float, float, float]]] = defaultdict(list)
        order = random.Random(0)
        for _ in range(rounds):
            for name in order.sample(VARIANTS, len(VARIANTS)):
                taken[name].append(self.measure(name, tokens))
        head = ["| the model's thread, per token | µs | processor µs | waits |", "|---|---|---|---|"]
        return "\n".join([*head, *(_row(name, taken[name]) for name in VARIANTS)])

    def measure(self, variant: MeasuredVariant, tokens: int) -> tuple[float, float, float]:
        """Measure per token: µs by the clock, µs of processor time, and waits of the thread."""
        with closing(self._steps(variant, tokens)) as steps:
            next(steps)
            before = _waits()
            times = [_now(), *(_now() for _ in islice(steps, tokens - 1))]
            waits = _waits() - before
        self._engine.observe(True)
        clock, processor = 1e6 * np.sort(np.diff(times, axis=0), axis=0)[: int(USUAL * tokens)].mean(0)
        return float(clock), float(processor), waits / tokens

    def _steps(self, variant: MeasuredVariant, tokens: int) -> Generator[object, None, None]:
        ids = self._engine.encode(PROMPT, turn=False, first=True)
        if variant == "bare":
            return self._bare.decode(ids)
        self._engine.reset()
        self._engine.configure(SAMPLING, reseed=True)
        self._engine.observe(variant == "tap on")
        loop = _Loop(self._engine)
        loop.prefill(ids)
        return (step for step in loop.decode(tokens))


def _row(name: str, taken: Sequence[tuple[float, float, float]]) -> str:
    clock, processor, waits = np.median(taken, axis=0)
    return f"| {name} | {clock:.1f} | {processor:.1f} | {'n/a' if math.isnan(waits) else f'{waits:.3f}'} |"


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.thread_time()


def _waits() -> float:
    """Return the number of waits of this thread so far; NaN if the system does not report it."""
    thread = getattr(resource, "RUSAGE_THREAD", None)
    return math.nan if thread is None else resource.getrusage(thread).ru_nvcsw


# -- step by step


class Loop:
    """The work of a worker and its parent on generated tokens, step by step.

    Args:
        engine: with a loaded model.
        watch: timer of the steps.
        path: session file to record.
        batch: tokens per message.
    """

    def __init__(self, engine: LlamaEngine, watch: Stopwatch, path: Path, batch: int) -> None:
        self._batch = batch
        self._engine, self._watch = engine, watch
        self._context, self._next_token = engine._loaded.context, engine._next_token
        self._observer, self._detokenizer = Observer(engine.model), engine.detokenizer()
        ready = Ready(model=engine.model, backend=engine.backend, template=None, capture=["experts"])
        header = RunSettings().header(PROMPT, SAMPLING, ready, datetime.now(UTC))
        self._instruments = Instruments(header)
        self._recorder = Recorder.create(path, header)
        self._reading, self._writing = Pipe(duplex=False)
        Thread(target=self._drain, daemon=True).start()
        engine.reset()
        engine.configure(SAMPLING, reseed=True)
        for _ in engine.prefill(engine.encode(PROMPT, turn=False, first=True), lambda _: None):
            pass

    def _drain(self) -> None:
        while True:
            self._reading.recv_bytes()

    def run(self, tokens: int) -> None:
        for first in range(0, tokens, self._batch):
            self._hand_over([self._step(i) for i in range(first, first + self._batch)])
        self._recorder.close()

    def _step(self, i: int) -> Evaluated:
        timed, loop = self._watch.time, self._engine
        choice = timed("sampling, log-probability and margins", lambda: self._next_token.draw(self._context))
        loop.observe(bool(i % 2))  # the difference is the callback
        timed(f"evaluation, tap {'on' if i % 2 else 'off'}", lambda: evaluate(self._context, [choice.id]))
        if not i % 2:
            loop.observe(True)
            evaluate(self._context, [choice.id])
        routing = timed("reading the routing", lambda: loop._loaded.tap.routing(loop._rows, 1))
        text = timed("detokenizer", lambda: self._detokenizer.add(choice.id))
        return Evaluated([TokenFacts(i, time.monotonic(), "generated", choice.id, text)], routing)

    def _hand_over(self, steps: list[Evaluated]) -> None:
        def timed(name: str, step: Callable[[], Result]) -> Result:
            return self._watch.time(name, step, self._batch)

        tokens: list[Token] = timed("token events, with entropy and margin", lambda: self._observer.tokens(steps))
        message = timed("msgpack", lambda: encode(Batch(list(tokens))))
        timed("pipe", lambda: self._writing.send_bytes(message))
        timed("parent: reading", lambda: decode_message(message))
        timed("parent: instruments", lambda: [self._instruments.feed(token) for token in tokens])
        timed("parent: recording", lambda: [self._recorder.append(token) for token in tokens])


def step_table(engine: LlamaEngine, tokens: int, batch: int) -> str:
    """Return a table of the time of each step per token, with tokens sent in batches."""
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        Loop(engine, watch, Path(folder) / "run.moe.jsonl", batch).run(tokens)
    return "\n".join(["| step | µs per token |", "|---|---|", *watch.lines()])


def tables(model: str, rounds: int, tokens: int) -> str:
    """Measure one model and return its tables."""
    engine = catalog.load_engine(
        "llama.cpp", catalog.locate(model, "llama.cpp"), options=EngineOptions(), progress=lambda _: None
    )
    assert isinstance(engine, LlamaEngine)
    with closing(engine):
        thread = ModelThread(engine)
        batch = min(LARGEST_BATCH, math.ceil(1e6 * LONGEST_WAIT / thread.pace))  # as a worker makes them
        return f"{thread.table(rounds)}\n\n{step_table(engine, tokens, batch)}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=["pocket"])
    parser.add_argument("--rounds", type=int, default=12, help="of the model's thread as a whole")
    parser.add_argument("--tokens", type=int, default=640, help="timed step by step")
    arguments = parser.parse_args()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # llama.cpp prints a lot while it loads
    sys.setswitchinterval(GIVE_WAY)  # as in a worker
    for model in arguments.models:
        meter = NoiseMeter()
        print(f"{Path(model).name}\n\n{tables(model, arguments.rounds, arguments.tokens)}\n")
        print(f"While measuring: {in_words(meter.noise())}.\n", flush=True)


if __name__ == "__main__":
    main()
