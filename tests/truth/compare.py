"""What MLX and `transformers` make of the same tiny models: MLX seen through the tap, `transformers` from a file.

Each folder of `models` holds a random model and what `transformers` computed with it; models/truth/make.py wrote it.
"""

from __future__ import annotations

import pathlib
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
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
    """What `transformers` computed in float32."""

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
    """[S], the tokens whose logits are kept, which then have S rows; all, if None."""

    @property
    def kept(self) -> Array:
        """Tokens that the rows of both logits belong to."""
        return np.arange(len(self.ids)) if self.sampled is None else self.sampled

    def all_weights(self) -> Array:
        """[T, L, E]: 0 for experts that were not selected."""
        return spread(self.experts, self.weights, self.router_logits.shape[-1])


@dataclass(frozen=True, eq=False)
class Seen:
    """What the tap saw of MLX."""

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
        """With the weights that follow from the logits."""
        return observe(self.logits, self.experts, self.gate)


def read_golden(name: str) -> Golden:
    return Golden(**np.load(MODELS / name / "golden.npz"))


def watch(name: str, ids: Array, *, stepwise: bool = False, corrected: bool = True) -> Seen:
    """Run a model over a sequence, all at once or token by token, and read the tap after each pass.

    `corrected` False leaves the model as mlx-lm loads it.
    """
    folder = MODELS / name
    model = open_model(folder, read_config(folder))[0] if corrected else load_model(folder)[0]
    model.set_dtype(mx.float32)
    tap, cache = RouterTap(model), make_prompt_cache(model)
    routings, outputs = [], []
    for piece in np.split(ids, len(ids)) if stepwise else [ids]:
        outputs.append(np.array(model(mx.array(piece)[None], cache=cache))[0])
        routings.append(tap.frame.read(len(piece)))
    return Seen(
        layers=[layer.index for layer in tap.layers],
        gate=tap.gate,
        logits=stacked(routings, "logits"),
        experts=stacked(routings, "experts").astype(np.int64),
        applied=stacked(routings, "weights") if routings[0].weights else None,
        output_logits=np.concatenate(outputs),
    )


def stacked(routings: list[RouterOutputs], what: str) -> Array:
    """One quantity of successive passes as [T, L, …]."""
    return np.concatenate([np.stack(getattr(routing, what), axis=1) for routing in routings])


def spread(experts: Array, values: Array, count: int) -> Array:
    """Values [T, L, k] of the selected experts as [T, L, E], 0 elsewhere."""
    everywhere = np.zeros((*experts.shape[:-1], count))
    np.put_along_axis(everywhere, experts.astype(np.int64), values, axis=-1)
    return everywhere


def probabilities(gate: str, logits: Array) -> Array:
    known = gates.parse(gate)
    assert known is not None, f"the gate {gate} is not known"
    return gates.probabilities(gates.scores(known, logits))


def scale(gate: str) -> float:
    """What the gate multiplies all weights by."""
    known = gates.parse(gate)
    return 1.0 if known is None or known.scale is None else known.scale


@dataclass(frozen=True)
class Comparison:
    """How far MLX and `transformers` are apart: largest absolute differences."""

    rows: int
    """Tokens × layers."""
    unequal: list[tuple[int, int]]
    """Token and position of the MoE layer, where the selected sets differ."""
    weights: float
    """Over the factor that the gate scales all weights by."""
    probabilities: float
    """Of the tokens whose logits are kept, as those of the output."""
    output_logits: float


def compare(seen: Seen, golden: Golden) -> Comparison:
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
