"""Comparison of llama.cpp and `transformers` on the tiny models: llama.cpp read through moe-watch's engine."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from llama_cpp import llama_cpp as lib

from moe_watch.backends.engine import RouterOutputs
from moe_watch.backends.llama.engine import LlamaEngine
from moe_watch.backends.llama.loading import LoadedLlamaModel, load_model
from moe_watch.backends.model_files import catalog
from moe_watch.backends.protocol import EngineOptions
from moe_watch.routing.arrays import ABSENT
from moe_watch.routing.events import Sampling
from tests.truth import published_shapes as shapes
from tests.truth.mlx_comparison import (
    MODELS,
    Array,
    EngineRun,
    Golden,
    probabilities,
    read_golden,
    scale,
    spread,
    stacked,
)

UNIT = 1e-4
"""Unit of recorded weights."""

MICRO_BATCH = 128
"""Tokens per micro-batch for models of published shape, so that a prompt has several."""


@dataclass(frozen=True, eq=False)
class Runs:
    """Two runs of one model on its sequence."""

    at_once: EngineRun
    """In the last layer only the last token is computed. `output_logits` [1, V] are the last token's."""
    stepwise: EngineRun
    architecture: str
    """Name in llama.cpp."""
    dtype: str | None
    """Data type that the engine reports."""
    sampled: int
    """Most likely token after the sequence."""


@cache
def runs(name: str) -> Runs:
    """Load a model as the worker does, and evaluate the golden sequence."""
    loaded = load_model(
        catalog.locate(str(MODELS / name / "model.gguf"), "llama.cpp"),
        options=EngineOptions(threads=1),
        progress=ignore,
    )
    engine = LlamaEngine(loaded)
    engine.configure(Sampling(temperature=0.0, seed=0), reseed=True)
    ids = read_golden(name).ids.tolist()
    try:
        at_once = run_pieces(engine, loaded, [ids])
        engine.reset()
        stepwise = run_pieces(engine, loaded, [[token] for token in ids])
        return Runs(at_once, stepwise, loaded.info.architecture, loaded.backend.dtype, engine.draw().id)
    finally:
        engine.close()


@cache
def run_shape(name: str) -> EngineRun:
    """Run a model of published shape: the prompt in five micro-batches, then token by token.

    `output_logits` begin at the last token of the prompt.
    """
    location = catalog.locate(str(shapes.folder(name) / "model.gguf"), "llama.cpp")
    loaded = load_model(location, options=EngineOptions(threads=1, micro_batch=MICRO_BATCH), progress=ignore)
    engine = LlamaEngine(loaded)
    engine.configure(Sampling(temperature=0.0, seed=0), reseed=True)
    ids = shapes.read_golden(name).ids.tolist()
    try:
        return run_pieces(engine, loaded, [ids[: shapes.PROMPT], *([token] for token in ids[shapes.PROMPT :])])
    finally:
        engine.close()


def ignore(_: object) -> None:
    """Ignore progress."""


def run_pieces(engine: LlamaEngine, loaded: LoadedLlamaModel, pieces: list[list[int]]) -> EngineRun:
    """Evaluate successive pieces of a sequence, and read the output after each."""
    routings: list[RouterOutputs] = []
    outputs = []
    for piece in pieces:
        routings += engine.prefill(piece, ignore)
        outputs.append(output_logits(loaded))
    return EngineRun(
        layers=loaded.info.layers,
        gate=loaded.info.gate,
        logits=stacked(routings, "logits"),
        experts=stacked(routings, "experts").astype(np.int64),
        applied=None,
        output_logits=np.stack(outputs),
    )


def output_logits(loaded: LoadedLlamaModel) -> Array:
    """Return the last token's logits [V]."""
    last = lib.llama_get_logits_ith(loaded.context, -1)
    return np.ctypeslib.as_array(last, (loaded.tokenizer.vocabulary,)).copy()


@dataclass(frozen=True)
class Comparison:
    """Largest absolute differences of llama.cpp and `transformers`, over the computed rows."""

    rows: int
    """Tokens × layers."""
    unequal: list[tuple[int, int]]
    """Token and position of the MoE layer for each set that differs, ties included."""
    weights: float | None
    """Divided by the gate's factor; None if the engine does not report weights."""
    probabilities: float
    output_logits: float


def compare(seen: EngineRun, golden: Golden) -> Comparison:
    computed = seen.experts[..., 0] != ABSENT
    same = (np.sort(seen.experts) == np.sort(golden.experts)).all(-1)
    rows = computed[golden.kept]
    expected = probabilities(seen.gate, golden.router_logits[rows])
    outputs = output_difference(seen, golden)
    return Comparison(
        rows=int(computed.sum()),
        unequal=[(int(token), int(layer)) for token, layer in np.argwhere(computed & ~same)],
        weights=weights_apart(seen, golden, computed),
        probabilities=float(np.abs(probabilities(seen.gate, seen.logits[golden.kept][rows]) - expected).max()),
        output_logits=float(np.abs(outputs).max()),
    )


def output_difference(seen: EngineRun, golden: Golden) -> Array:
    """Return the difference […, V] for the tokens whose logits were both read and kept."""
    first = len(golden.ids) - len(seen.output_logits)
    both = golden.kept >= first
    return np.asarray(seen.output_logits[golden.kept[both] - first] - golden.output_logits[both])


def weights_apart(seen: EngineRun, golden: Golden, computed: Array) -> float | None:
    observed = seen.observation()
    if observed.weights is None:
        return None
    recorded = spread(
        np.where(computed[..., None], observed.experts, 0), observed.weights * UNIT, seen.logits.shape[-1]
    )
    return float(np.abs(recorded - golden.all_weights())[computed].max() / scale(seen.gate))
