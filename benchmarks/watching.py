"""What watching costs: bare mlx-lm, with the tap, and with tap, recording and dashboard, in one interleaved run.

python -m benchmarks.watching --rounds 10
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from backends import catalog
from backends.engine import Engine
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


def bare(engine: Any, ids: list[int], tokens: int) -> Callable[[], float]:
    """mlx-lm's own generation loop on the same weights, without any hook."""
    import mlx.core as mx
    from mlx_lm.generate import generate_step
    from mlx_lm.sample_utils import make_sampler

    def stamps() -> Iterator[float]:
        for _ in generate_step(mx.array(ids), engine, max_tokens=-1, sampler=make_sampler(temp=1.0)):
            yield time.perf_counter()

    return lambda: rate(stamps(), tokens)


def tapped(engine: Engine, ids: list[int], tokens: int) -> Callable[[], float]:
    """Our engine: every token with its routing, read into NumPy."""

    def stamps() -> Iterator[float]:
        engine.reset()
        engine.configure(SAMPLING, reseed=True)
        for _ in engine.prefill(ids, lambda _: None):
            pass
        while True:
            engine.draw()
            yield time.perf_counter()

    return lambda: rate(stamps(), tokens)


def watched(model: str, tokens: int, folder: Path) -> Callable[[], float]:
    """The program in a terminal of 120×40, recording, as fast as it goes. Read off the recording's own times."""
    output = folder / "watched.moe.jsonl"

    def measure() -> float:
        arguments = ("watch", model, "--prompt", PROMPT, "--tokens", str(tokens), "--rate", "0", "--stop", "never")
        with Terminal(*arguments, "--seed", "7", "--output", str(output), "--force") as terminal:
            terminal.wait_for("finished", seconds=300)
            terminal.press("q")
            terminal.wait_for_exit()
        events = [json.loads(line) for line in output.read_bytes().splitlines()]
        stamps = [event["t"] for event in events if event["event"] == "token" and event["phase"] == "decode"]
        return rate(iter(stamps), tokens)

    return measure


def run(model: str, *, rounds: int, tokens: int, folder: Path) -> str:
    """Measure one model; returns its table."""
    from mlx_lm.utils import load_model

    location = catalog.locate(model, "mlx")
    assert location.path is not None
    engine = catalog.load_engine("mlx", location, threads=None, progress=lambda _: None)
    unhooked, _ = load_model(location.path)
    unhooked.set_dtype(__import__("mlx.core").core.float32)
    ids = engine.encode(PROMPT, turn=False, first=True)
    variants = {
        "bare mlx-lm": bare(unhooked, ids, tokens),
        "tap": tapped(engine, ids, tokens),
        "tap + recording + dashboard": watched(model, tokens, folder),
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
        print("pocket, 6 layers × 8 experts, top-2, hidden 128, decode\n")
        print(run("pocket", rounds=arguments.rounds, tokens=arguments.tokens, folder=folder), flush=True)
        print(f"\na random model, {MADE}, decode\n")
        print(run(str(made), rounds=arguments.rounds, tokens=arguments.tokens // 4, folder=folder), flush=True)


if __name__ == "__main__":
    main()
