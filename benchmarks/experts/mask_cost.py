"""Cost of a mask on llama.cpp, where every masked layer takes another stop.

python -m benchmarks.experts.mask_cost --rounds 40
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

from benchmarks.random_models import FEW_LARGE, MANY_SMALL, RandomModel, make_file
from moe_watch.backends.llama.engine import LlamaEngine, load
from moe_watch.backends.model_files import catalog
from moe_watch.backends.protocol import EngineOptions
from moe_watch.routing.events import Sampling
from moe_watch.routing.router.masks import ExpertMask
from moe_watch.routing.stats.ratios import FEWEST_ROUNDS, interleave, table

PROMPT = list(range(10, 138))
WARM_UP = 1
LEFT_OUT = 0
"""Expert that is switched off."""

CASES: dict[str, tuple[RandomModel | None, int]] = {
    "pocket: 6 layers × 8 experts, top-2, hidden 128": (None, 100),
    str(FEW_LARGE): (FEW_LARGE, 20),
    str(MANY_SMALL): (MANY_SMALL, 20),
}
"""Model, None for pocket, and tokens of one measurement."""


def masks(layers: list[int]) -> dict[str, ExpertMask]:
    """Return the variants: nothing masked, an expert of one layer, an expert of every layer."""
    return {
        "nothing masked": ExpertMask(),
        "one layer": ExpertMask.of([(layers[len(layers) // 2], LEFT_OUT)]),
        "all layers": ExpertMask.of((layer, LEFT_OUT) for layer in layers),
    }


def decode_rate(engine: LlamaEngine, mask: ExpertMask, tokens: int) -> float:
    """Return the generated tokens per second with this mask, the tap on."""
    engine.reset()
    engine.mask(mask)
    for _ in engine.prefill(PROMPT[:8], lambda _: None):
        pass
    began = time.perf_counter()
    for _ in range(tokens):
        engine.draw()
    return tokens / (time.perf_counter() - began)


def prefill_rate(engine: LlamaEngine, mask: ExpertMask) -> float:
    """Return the prompt tokens per second with this mask, the tap on."""
    engine.reset()
    engine.mask(mask)
    began = time.perf_counter()
    for _ in engine.prefill(PROMPT, lambda _: None):
        pass
    return len(PROMPT) / (time.perf_counter() - began)


def measured(engine: LlamaEngine, tokens: int, rounds: int) -> str:
    """Return the tables of one model."""
    variants = masks(engine.model.layers)
    phases: dict[str, Callable[[ExpertMask], float]] = {
        "decode": lambda mask: decode_rate(engine, mask, tokens),
        "prefill": lambda mask: prefill_rate(engine, mask),
    }
    tables = []
    for phase, rate in phases.items():
        measures = {name: partial(rate, mask) for name, mask in variants.items()}
        tables.append(table(interleave(measures, rounds, warm_up=WARM_UP), corner=phase))
    return "\n\n".join(tables)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40, help=f"at least {FEWEST_ROUNDS}, or there is no interval")
    parser.add_argument("--only", default="", help="cases whose title contains this")
    arguments = parser.parse_args()
    for title, (shape, tokens) in CASES.items():
        if arguments.only not in title:
            continue
        with tempfile.TemporaryDirectory(prefix="moe-watch-made-") as folder:
            model = "pocket" if shape is None else str(make_file(shape, Path(folder)))
            location = catalog.locate(model, "llama.cpp")
            with closing(load(location, options=EngineOptions(), progress=lambda _: None)) as engine:
                engine.configure(Sampling(seed=0, stop="never"), reseed=True)
                print(f"## {title}\n\n{measured(engine, tokens, arguments.rounds)}\n", flush=True)


if __name__ == "__main__":
    main()
