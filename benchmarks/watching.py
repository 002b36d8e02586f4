"""What watching costs: the bare engine, with the tap, and with tap, recording and dashboard, in one interleaved run.

python -m benchmarks.watching --rounds 10
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from backends import catalog
from backends.measuring import Measurements
from backends.protocol import EngineOptions, Measure
from benchmarks.made_models import Shape, make
from routing.ratios import interleave, table
from sessions.bench import recorded_rate
from tests.e2e.terminal import Terminal

PROMPT = "def parse_"
ENGINE_NAMES = {"mlx": "mlx-lm", "llama.cpp": "llama.cpp"}
MADE = Shape(layers=16, experts=8, hidden=512, expert_width=1024)


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
        return recorded_rate(output)

    return measure


def run(model: str, backend: str, *, rounds: int, tokens: int, folder: Path) -> str:
    """Measure one model on one engine; returns its table."""
    location = catalog.locate(model, backend)
    with quiet():
        measurements = Measurements(
            catalog.load_engine(backend, location, options=EngineOptions(), progress=lambda _: None)
        )

    def measured(variant: Literal["bare", "tap"]) -> Callable[[], float]:
        asked = Measure(variant=variant, phase="decode", prompt=PROMPT, tokens=tokens)

        def measure() -> float:
            with quiet():
                return measurements.take(asked)

        return measure

    variants = {
        f"bare {ENGINE_NAMES[backend]}": measured("bare"),
        "tap": measured("tap"),
        "tap + recording + dashboard": watched(model, backend, tokens, folder),
    }
    return table(interleave(variants, rounds, warm_up=1))


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
