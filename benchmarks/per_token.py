"""Where the time goes: what each step of observing takes per generated token, on llama.cpp.

python -m benchmarks.per_token [MODEL.gguf …]

Lower quartiles, each step timed where it happens in the loop: after an evaluation the processor's caches hold the
model, and the same Python takes two to three times what it takes in a loop of its own.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from multiprocessing import Pipe
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

import numpy as np

from backends import catalog
from backends.llama_context import evaluate
from backends.llama_engine import LlamaEngine
from backends.measuring import SAMPLING
from backends.observation import Evaluated, Observer, TokenFacts
from backends.protocol import Batch, EngineOptions, Ready, decode_message, encode
from routing.events import Token
from routing.instruments import Instruments
from sessions.recorder import Recorder
from sessions.run_settings import RunSettings

PROMPT = "def parse_"
BATCH = 16
"""Tokens handed over together; a worker waits for 64 of them or 20 ms."""
Result = TypeVar("Result")


class Stopwatch:
    """Times named steps."""

    def __init__(self) -> None:
        self._seconds: dict[str, list[float]] = defaultdict(list)

    def time(self, name: str, step: Callable[[], Result], tokens: int = 1) -> Result:
        """Do it, and note what it took per token."""
        began = time.perf_counter()
        result = step()
        self._seconds[name].append((time.perf_counter() - began) / tokens)
        return result

    def lines(self) -> list[str]:
        """A Markdown table's rows, in µs."""
        return [f"| {name} | {1e6 * np.percentile(taken, 25):.1f} |" for name, taken in self._seconds.items()]


class Loop:
    """A worker's and its parent's work on generated tokens, step by step.

    Args:
        engine: with a loaded model.
        watch: told what each step takes.
        path: where to record.
    """

    def __init__(self, engine: LlamaEngine, watch: Stopwatch, path: Path) -> None:
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

    def run(self, batches: int) -> None:
        for number in range(batches):
            steps = [self._step(BATCH * number + place) for place in range(BATCH)]
            self._hand_over(steps)
        self._recorder.close()

    def _step(self, i: int) -> Evaluated:
        timed, loop = self._watch.time, self._engine
        choice = timed("drawing, and log-probability and margins", lambda: self._next_token.draw(self._context))
        loop.observe(bool(i % 2))  # the difference is the callback
        timed(f"evaluating, tap {'on' if i % 2 else 'off'}", lambda: evaluate(self._context, [choice.id]))
        if not i % 2:
            loop.observe(True)
            evaluate(self._context, [choice.id])
        routing = timed("reading the routing out", lambda: loop._loaded.tap.routing(loop._rows, 1))
        text = timed("text", lambda: self._detokenizer.add(choice.id))
        return Evaluated([TokenFacts(i, time.monotonic(), "generated", choice.id, text)], routing)

    def _hand_over(self, steps: list[Evaluated]) -> None:
        def timed(name: str, step: Callable[[], Any]) -> Any:
            return self._watch.time(name, step, BATCH)

        tokens: list[Token] = timed("token events, with entropy and margin", lambda: self._observer.tokens(steps))
        frame: bytes = timed("msgpack", lambda: encode(Batch(list(tokens))))
        timed("pipe", lambda: self._writing.send_bytes(frame))
        timed("parent: reading", lambda: decode_message(frame))
        timed("parent: instruments", lambda: [self._instruments.feed(token) for token in tokens])
        timed("parent: recording", lambda: [self._recorder.append(token) for token in tokens])


def breakdown(model: str, batches: int) -> str:
    """Measure one model; returns its table."""
    engine = catalog.load_engine(
        "llama.cpp", catalog.locate(model, "llama.cpp"), options=EngineOptions(), progress=lambda _: None
    )
    assert isinstance(engine, LlamaEngine)
    watch = Stopwatch()
    with closing(engine), tempfile.TemporaryDirectory() as folder:
        Loop(engine, watch, Path(folder) / "run.moe.jsonl").run(batches)
    return "\n".join(["| step | µs per token |", "|---|---|", *watch.lines()])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=["pocket"])
    parser.add_argument("--batches", type=int, default=40)
    arguments = parser.parse_args()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # llama.cpp says a lot while it loads
    for model in arguments.models:
        print(f"{Path(model).name}\n\n{breakdown(model, arguments.batches)}\n", flush=True)


if __name__ == "__main__":
    main()
