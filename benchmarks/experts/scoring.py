"""Cost of scoring given tokens: usage, saliency and masks, beside the bare engine that computes every token's output.

python -m benchmarks.experts.scoring --rounds 8
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from benchmarks.random_models import FEW_LARGE, MANY_SMALL, RandomModel, make_file, make_folder
from moe_watch.backends.engine import Engine
from moe_watch.backends.llama.engine import LlamaEngine
from moe_watch.backends.mlx.engine import MlxEngine
from moe_watch.backends.model_files import catalog
from moe_watch.backends.protocol import BackendChoice, EngineOptions, Load
from moe_watch.backends.scoring.windows import WindowScoring
from moe_watch.backends.scoring_messages import Score
from moe_watch.routing.header import MaskRows
from moe_watch.routing.stats.ratios import FEWEST_ROUNDS, interleave, ratio, table
from moe_watch.routing.stats.timing_noise import in_words
from moe_watch.sessions.live.shared_worker import KeptWorker
from moe_watch.vitals.noise import NoiseMeter

WINDOW = 512
BARE = "bare"
VARIANTS = {
    "predictions": Score(ids=[], window=WINDOW),
    "usage": Score(ids=[], window=WINDOW, usage=True, surprisal=False),
    "usage and saliency": Score(ids=[], window=WINDOW, usage=True, saliency=True, surprisal=False),
}
GOALS = {"usage": 0.9, "usage and saliency": 0.7}
"""Least ratios to the bare engine."""

MASKS = 12
"""Experts that are switched off, one evaluation each."""


@dataclass(frozen=True)
class ScoringCase:
    """One model on one engine."""

    title: str
    backend: BackendChoice
    tokens: int
    """Tokens of the window."""
    shape: RandomModel | None = None
    """The random model; None is pocket."""

    def model(self, folder: Path) -> str:
        """Return the model to load; a random one is made first."""
        if self.shape is None:
            return "pocket"
        return str((make_file if self.backend == "llama.cpp" else make_folder)(self.shape, folder))


CASES = (
    ScoringCase("pocket on llama.cpp: 6 layers × 8 experts, top-2, hidden 128", "llama.cpp", WINDOW),
    ScoringCase("pocket on MLX", "mlx", WINDOW),
    ScoringCase(f"{FEW_LARGE}, on llama.cpp", "llama.cpp", WINDOW, FEW_LARGE),
    ScoringCase(f"{MANY_SMALL}, on llama.cpp", "llama.cpp", WINDOW, MANY_SMALL),
    ScoringCase(f"{MANY_SMALL}, on MLX", "mlx", 64, MANY_SMALL),
)


# -- the bare engine


@contextmanager
def bare_evaluation(engine: Engine, ids: list[int]) -> Iterator[Callable[[], object]]:
    """Yield a function that evaluates the tokens in an empty context with an output for each, without a tap."""
    if isinstance(engine, LlamaEngine):
        yield from _bare_llama(engine, ids)
    elif isinstance(engine, MlxEngine):
        yield _bare_mlx(engine, ids)
    else:
        raise TypeError(type(engine).__name__)


def _bare_llama(engine: LlamaEngine, ids: list[int]) -> Iterator[Callable[[], object]]:
    from llama_cpp import llama_cpp as lib

    from moe_watch.backends.llama.context import clear, evaluate_all, new_context
    from moe_watch.backends.llama.scoring.scorer import scoring_settings

    settings = scoring_settings(engine._loaded.settings, WINDOW, engine.vocabulary)
    context = new_context(engine._loaded.model, settings, tap=None)

    def evaluate() -> None:
        clear(context)
        for start in range(0, len(ids), settings.batch):
            evaluate_all(context, ids[start : start + settings.batch])
        lib.llama_synchronize(context)

    yield evaluate
    lib.llama_free(context)


def _bare_mlx(engine: MlxEngine, ids: list[int]) -> Callable[[], object]:
    import mlx.core as mx
    from mlx_lm.models.cache import make_prompt_cache

    model = engine._loaded.model

    def evaluate() -> None:
        mx.eval(model(mx.array([ids]), cache=make_prompt_cache(model)))

    return evaluate


# -- rates


def rates_of(engine: Engine, ids: list[int], rounds: int) -> dict[str, list[float]]:
    """Measure tokens per second of the bare engine and of each variant, in the process of the engine."""
    with ExitStack() as stack:
        variants = {BARE: stack.enter_context(bare_evaluation(engine, ids))}
        for name, command in VARIANTS.items():
            variants[name] = _scoring(engine, command, ids, stack)
        timed = {name: _rate(variant, len(ids)) for name, variant in variants.items()}
        return interleave(timed, rounds, warm_up=1)


def _scoring(engine: Engine, command: Score, ids: list[int], stack: ExitStack) -> Callable[[], object]:
    scoring = stack.enter_context(closing(WindowScoring(engine)))
    whole = msgspec.structs.replace(command, ids=ids)
    return lambda: list(scoring.score(whole))


def _rate(evaluate: Callable[[], object], tokens: int) -> Callable[[], float]:
    def measure() -> float:
        began = time.perf_counter()
        evaluate()
        return tokens / (time.perf_counter() - began)

    return measure


def ablation_seconds(worker: KeptWorker, ids: list[int]) -> list[float]:
    """Return the seconds of each masked expert per 1,000 tokens, through a worker."""
    scored = worker.score(Score(ids=ids, window=WINDOW, masks=_masks(worker)))
    next(scored)
    found, before = [], time.perf_counter()
    for each in scored:
        now = time.perf_counter()
        if not each.unused:
            found.append((now - before) / len(ids) * 1000)
        before = now
    return found


def _masks(worker: KeptWorker) -> list[MaskRows]:
    """Return one expert each, spread over the layers."""
    model = worker.ready.model
    return [[(model.layers[at % len(model.layers)], [at * 5 % model.experts])] for at in range(MASKS)]


# -- tables


def text() -> str:
    """Return some text that pocket's tokenizer and routers are made for."""
    return Path(argparse.__file__).read_text(encoding="utf-8")


def show(case: ScoringCase, model: str, rounds: int) -> list[str]:
    """Print the table of one case; returns the variants that miss their goals."""
    meter = NoiseMeter()
    with KeptWorker(Load(model=model, backend=case.backend), lambda _: None) as worker:
        ids = worker.tokenize([text()]).ids[0][: case.tokens]
        seconds = statistics.median(ablation_seconds(worker, ids))
    engine = catalog.load_engine(
        case.backend, catalog.locate(model, case.backend), options=EngineOptions(), progress=lambda _: None
    )
    with closing(engine):
        rates = rates_of(engine, ids, rounds)
    print(f"## {case.title}\n\n{table(rates, corner=f'a window of {len(ids)} tokens')}\n")
    bare = 1000 / statistics.median(rates[BARE])
    print(f"Per 1,000 tokens: {bare:.3g} s bare, {seconds:.3g} s for each masked expert, through a worker.")
    print(f"While measuring: {in_words(meter.noise())}.\n", flush=True)
    return missed(rates)


def missed(rates: dict[str, list[float]]) -> list[str]:
    """Return the variants whose ratio to the bare engine is below its goal."""
    return [name for name, goal in GOALS.items() if ratio(rates[name], rates[BARE]).value < goal]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8, help=f"at least {FEWEST_ROUNDS}, or there is no interval")
    parser.add_argument("--only", default="", help="cases whose title contains this")
    parsed = parser.parse_args(arguments)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # llama.cpp prints a lot while it loads
    failures = []
    for case in CASES:
        if parsed.only in case.title:
            with tempfile.TemporaryDirectory(prefix="moe-watch-made-") as folder:
                failures += [f"{case.title}: {name}" for name in show(case, case.model(Path(folder)), parsed.rounds)]
    for failure in failures:
        print(f"below the goal of {GOALS[failure.rpartition(': ')[2]]:g}: {failure}")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
