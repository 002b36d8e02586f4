"""Comparison of MLX and `transformers` on the same tiny models: MLX read through the tap, `transformers` from a file.

Each folder of `models` holds a random model and what `transformers` computed with it; models/truth/make.py wrote it.
"""

from __future__ import annotations

import pathlib
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model

from moe_watch.backends.engine import RouterOutputs
from moe_watch.backends.mlx.open_model import open_model
from moe_watch.backends.mlx.tap import RouterTap
from moe_watch.backends.model_files.config import read_config
from moe_watch.routing.router import gates
from moe_watch.routing.router.observe import Observation, observe

Array = npt.NDArray[Any]

MODELS = pathlib.Path(__file__).with_name("models")


@dataclass(frozen=True, eq=False)
class Golden:
    """Results of `transformers`, computed in float32."""

    ids: Array
    """[T]"""
    layers: Array
    """[L]: index in the model of each MoE layer."""
    router_logits: Array
    """[T, L, E]"""
    experts: Array
    """[T, L, k], in no particular order"""
    weights: Array
    """[T, L, k], as they are applied"""
    output_logits: Array
    """[T, V]"""
    sampled: Array | None = None
    """[S] tokens whose logits are kept; both logits then have S rows. None keeps all."""

    @property
    def kept(self) -> Array:
        """Tokens of the rows of both logits."""
        return np.arange(len(self.ids)) if self.sampled is None else self.sampled

    def all_weights(self) -> Array:
        """Return weights [T, L, E], 0 for experts that were not selected."""
        return spread(self.experts, self.weights, self.router_logits.shape[-1])


@dataclass(frozen=True, eq=False)
class EngineRun:
    """Routing that the tap read from one run of an engine, and the run's output logits."""

    layers: list[int]
    gate: str
    logits: Array
    """[T, L, E]"""
    experts: Array
    """[T, L, k], in no particular order"""
    applied: Array | None
    """[T, L, k]: weights, if the router returns them."""
    output_logits: Array
    """[T, V]"""

    def observation(self) -> Observation:
        return observe(self.logits, self.experts, self.gate, self.applied)

    def computed(self) -> Observation:
        """Return the observation with the weights that follow from the logits."""
        return observe(self.logits, self.experts, self.gate)


def read_golden(name: str) -> Golden:
    return Golden(**np.load(MODELS / name / "golden.npz"))


def run_model(name: str, ids: Array, *, stepwise: bool = False, corrected: bool = True) -> EngineRun:
    """Run a model over a sequence, all at once or token by token, and read the tap after each pass.

    `corrected` False leaves the model as mlx-lm loads it.
    """
    folder = MODELS / name
    model = open_model(folder, read_config(folder))[0] if corrected else load_model(folder)[0]
    return run_pieces(model, RouterTap(model), np.split(ids, len(ids)) if stepwise else [ids])


def run_pieces(model: nn.Module, tap: RouterTap, pieces: list[Array]) -> EngineRun:
    """Evaluate successive pieces of a sequence in float32, and read the tap after each."""
    model.set_dtype(mx.float32)
    cache = make_prompt_cache(model)
    routings: list[RouterOutputs] = []
    outputs = []
    for piece in pieces:
        outputs.append(np.array(model(mx.array(piece)[None], cache=cache))[0])
        routings.append(tap.frame.read(len(piece)))
    return EngineRun(
        layers=[layer.index for layer in tap.layers],
        gate=tap.gate,
        logits=stacked(routings, "logits"),
        experts=stacked(routings, "experts").astype(np.int64),
        applied=stacked(routings, "weights") if routings[0].weights else None,
        output_logits=np.concatenate(outputs),
    )


def stacked(routings: list[RouterOutputs], what: str) -> Array:
    """Return one quantity of successive passes as [T, L, …]."""
    return np.concatenate([np.stack(getattr(routing, what), axis=1) for routing in routings])


def spread(experts: Array, values: Array, count: int) -> Array:
    """Return values [T, L, k] of the selected experts as [T, L, E], 0 elsewhere."""
    everywhere = np.zeros((*experts.shape[:-1], count))
    np.put_along_axis(everywhere, experts.astype(np.int64), values, axis=-1)
    return everywhere


def probabilities(gate: str, logits: Array) -> Array:
    known = gates.parse(gate)
    assert known is not None, f"the gate {gate} is not known"
    return gates.probabilities(gates.scores(known, logits))


def scale(gate: str) -> float:
    """Return the factor by which the gate multiplies all weights."""
    known = gates.parse(gate)
    return 1.0 if known is None or known.scale is None else known.scale


@dataclass(frozen=True)
class Comparison:
    """Largest absolute differences of MLX and `transformers`."""

    rows: int
    """Tokens × layers."""
    unequal: list[tuple[int, int]]
    """Token and position of the MoE layer for each set that differs."""
    weights: float
    """Divided by the gate's factor."""
    probabilities: float
    """Over the tokens whose logits are kept, as for the output logits."""
    output_logits: float


def compare(seen: EngineRun, golden: Golden) -> Comparison:
    observed, count = seen.observation(), golden.router_logits.shape[-1]
    assert observed.weights is not None, f"the weights of {seen.gate} were not observed"
    weights = spread(observed.experts, observed.weights * 1e-4, count)
    expected = probabilities(seen.gate, golden.router_logits)
    same = (np.sort(observed.experts) == np.sort(golden.experts)).all(-1)
    return Comparison(
        rows=same.size,
        unequal=[(int(token), int(layer)) for token, layer in np.argwhere(~same)],
        weights=float(np.abs(weights - golden.all_weights()).max() / scale(seen.gate)),
        probabilities=float(np.abs(probabilities(seen.gate, seen.logits[golden.kept]) - expected).max()),
        output_logits=float(np.abs(seen.output_logits[golden.kept] - golden.output_logits).max()),
    )
