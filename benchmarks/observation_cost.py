"""Observation cost of pocket and two random models, on both engines, beside other ways to observe routing.

python -m benchmarks.observation_cost --rounds 8
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import transformers_cost
from benchmarks.random_models import FEW_LARGE, MANY_SMALL, RandomModel, make_file, make_folder
from moe_watch.backends.protocol import BackendChoice
from moe_watch.backends.run_spec import RunSpec
from moe_watch.routing.stats.ratios import FEWEST_ROUNDS, table
from moe_watch.routing.stats.timing_noise import in_words
from moe_watch.sessions.bench import Bench, BenchResult, Variants
from moe_watch.sessions.live.settings import RunSettings
from moe_watch.tui.offscreen import run_unseen

PROMPT = "def parse_"
IN_PYTHON = "tap on, callback in Python"


@dataclass(frozen=True)
class Case:
    """One model on one engine."""

    title: str
    backend: BackendChoice
    tokens: int
    """Tokens generated in one measurement, which takes half a second to two."""
    prompt: int
    """Tokens of the prompt in prefill measurements."""
    shape: RandomModel | None = None
    """The random model; None is pocket."""

    def model(self, folder: Path) -> str:
        """Return the model to load; a random one is made first."""
        if self.shape is None:
            return "pocket"
        return str((make_file if self.backend == "llama.cpp" else make_folder)(self.shape, folder))


CASES = (
    Case("pocket on llama.cpp: 6 layers × 8 experts, top-2, hidden 128", "llama.cpp", 800, 256),
    Case("pocket on MLX", "mlx", 150, 256),
    Case(f"{FEW_LARGE}, on llama.cpp", "llama.cpp", 60, 128, FEW_LARGE),
    Case(f"{FEW_LARGE}, on MLX", "mlx", 30, 16, FEW_LARGE),
    Case(f"{MANY_SMALL}, on llama.cpp", "llama.cpp", 60, 128, MANY_SMALL),
    Case(f"{MANY_SMALL}, on MLX", "mlx", 30, 16, MANY_SMALL),
)


@contextmanager
def no_compiler() -> Iterator[None]:
    """Start workers without a compiled callback."""
    before = os.environ.get("CC")
    os.environ["CC"] = "none"
    try:
        yield
    finally:
        os.environ.pop("CC")
        if before is not None:
            os.environ["CC"] = before


def result_of(case: Case, model: str, rounds: int) -> BenchResult:
    """Measure one model on one engine; on llama.cpp also without a compiled callback."""
    spec = RunSpec(prompt=PROMPT, tokens=case.tokens)
    settings = RunSettings(spec=spec, model=model, backend=case.backend)
    with ExitStack() as stack:
        bench = stack.enter_context(Bench(settings, lambda _: None, dashboard=run_unseen, prefill_tokens=case.prompt))
        if case.backend != "llama.cpp":
            return bench.run(rounds, lambda: None)
        with no_compiler():
            in_python = stack.enter_context(Bench(settings, lambda _: None))
        extra: Variants = {("decode", IN_PYTHON): lambda: in_python.measure("tap on", "decode")}
        return bench.run(rounds, lambda: None, extra)


def show(title: str, result: BenchResult) -> None:
    """Print the tables of one case, and the noise of the machine."""
    rows = result.rows
    print(f"## {title}\n")
    for phase in ("decode", "prefill"):
        print(table({row.name: row.rates for row in rows if row.phase == phase}, corner=phase), flush=True)
        print()
    for row in rows:
        if row.doubt is not None:
            print(f"{row.phase}, {row.name}: too noisy ({row.doubt})")
    print(f"While measuring: {in_words(result.noise)}.\n", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8, help=f"at least {FEWEST_ROUNDS}, or there is no interval")
    parser.add_argument("--only", default="", help="cases whose title contains this")
    parser.add_argument("--torch", type=Path, help="a Python that has torch and transformers")
    arguments = parser.parse_args()
    for case in CASES:
        if arguments.only in case.title:
            with tempfile.TemporaryDirectory(prefix="moe-watch-made-") as folder:
                show(case.title, result_of(case, case.model(Path(folder)), arguments.rounds))
    for shape in (FEW_LARGE, MANY_SMALL):
        title = f"{shape}, in transformers"
        if arguments.only in title:
            print(f"## {title}\n\n{transformers_cost.measured(shape.config, arguments.rounds, arguments.torch)}\n")


if __name__ == "__main__":
    main()
