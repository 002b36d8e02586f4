"""What watching costs: the bare engine, with the tap, and with tap, recording and dashboard, in one interleaved run.

python -m benchmarks.watching --rounds 10
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from backends import catalog
from backends.engine import Engine
from benchmarks import bare
from benchmarks.made_models import Shape, make
from benchmarks.ratios import interleave, table
from routing.events import Sampling
from tests.e2e.terminal import Terminal

PROMPT = "def parse_"
SAMPLING = Sampling(seed=7, stop="never")
MADE = Shape(layers=16, experts=8, hidden=512, expert_width=1024)


def rate(stamps: Iterator[float], tokens: int) -> float:
    """Tokens per second from the first to the last of `tokens` time stamps."""
    seen = [next(stamps) for _ in range(tokens)]
    return (tokens - 1) / (seen[-1] - seen[0])


@contextmanager
def quiet() -> Iterator[None]:
    """Without what engines write to standard error while they load."""
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def tapped(engine: Engine, ids: list[int]) -> Iterator[float]:
    """Our engine: every token with its routing, read into NumPy."""
    engine.reset()
    engine.configure(SAMPLING, reseed=True)
    for _ in engine.prefill(ids, lambda _: None):
        pass
    while True:
        engine.draw()
        yield time.perf_counter()


def watched(model: str, backend: str, tokens: int, folder: Path) -> Callable[[], float]:
    """The program in a terminal of 120×40, recording, as fast as it goes. Read off the recording's own times."""
    output = folder / "watched.moe.jsonl"
    generation = ("--prompt", PROMPT, "--tokens", str(tokens), "--stop", "never", "--seed", "7", "--rate", "0")

    def measure() -> float:
        arguments = ("watch", model, "--backend", backend, *generation, "--output", str(output), "--force")
        with Terminal(*arguments) as terminal:
            terminal.wait_for("finished", seconds=300)
            terminal.press("q")
            terminal.wait_for_exit()
        events = [json.loads(line) for line in output.read_bytes().splitlines()]
        stamps = [event["t"] for event in events if event["event"] == "token" and event["phase"] == "decode"]
        return rate(iter(stamps), tokens)

    return measure


def run(model: str, backend: str, *, rounds: int, tokens: int, folder: Path) -> str:
    """Measure one model on one engine; returns its table."""
    location = catalog.locate(model, backend)
    assert location.path is not None
    with quiet():
        engine = catalog.load_engine(backend, location, threads=None, progress=lambda _: None)
        ids = engine.encode(PROMPT, turn=False, first=True)
        if backend == "mlx":
            name, unhooked = "bare mlx-lm", bare.mlx(location.path, ids)
        else:
            name, unhooked = "bare llama.cpp", bare.llama(location.path, ids, engine.backend.threads or 1)
    variants = {
        name: lambda: rate(unhooked(), tokens),
        "tap": lambda: rate(tapped(engine, ids), tokens),
        "tap + recording + dashboard": watched(model, backend, tokens, folder),
    }
    for warm_up in list(variants.values())[:2]:
        warm_up()
    return table(interleave(variants, rounds))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=400, help="decode tokens of pocket per measurement")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = make(MADE, folder / "made")
        for model, backend, title, tokens in (
            ("pocket", "mlx", "pocket on MLX: 6 layers × 8 experts, top-2, hidden 128", arguments.tokens),
            ("pocket", "llama.cpp", "pocket on llama.cpp", arguments.tokens),
            (str(made), "mlx", f"a random model on MLX: {MADE}", arguments.tokens // 4),
        ):
            print(f"{title}, decode\n", flush=True)
            print(run(model, backend, rounds=arguments.rounds, tokens=tokens, folder=folder), flush=True)
            print()


if __name__ == "__main__":
    main()
