"""References of runs with experts switched off, and with another number of experts per token; for any engine.

models/truth/masked.py made them, with `transformers` in float32 on the models of the suite.
"""

from __future__ import annotations

import pathlib
from dataclasses import dataclass

import numpy as np

from moe_watch.routing.router import gates
from moe_watch.routing.router.masks import ExpertMask
from tests.truth.mlx_comparison import Array, EngineRun, Golden, probabilities, spread

HERE = pathlib.Path(__file__).parent

NOT_MASKED = ("bailing_hybrid", "deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite", "kimi_linear")
"""Models whose groups have two experts each, so that none can be switched off."""

SELECTS_TWO = ("phimoe",)
"""Models whose sparsemixer selects two experts."""


def names(file: str) -> list[str]:
    """Return the models that have a reference in a file of that name."""
    return sorted(path.parent.name for path in HERE.glob(f"*/{file}"))


MASKED, ANOTHER_K = names("masked.npz"), names("another_k.npz")


@dataclass(frozen=True, eq=False)
class Reference:
    """Results of `transformers` with a mask, or with another number of experts per token."""

    golden: Golden
    mask: ExpertMask
    """Empty with another number of experts per token."""

    @property
    def k(self) -> int:
        return int(self.golden.experts.shape[-1])


def read_reference(name: str, file: str) -> Reference:
    arrays = dict(np.load(HERE / name / file))
    pairs = arrays.pop("mask", np.empty((0, 2), np.int64)).tolist()
    return Reference(Golden(**arrays), ExpertMask.of((layer, expert) for layer, expert in pairs))


@dataclass(frozen=True)
class Distance:
    """Largest absolute differences of an engine's run and a reference, over the rows that the engine computed."""

    unequal: int
    """Sets of selected experts that differ."""
    weights: float | None
    """Relative to the gate's scale; None if the weights do not follow from the logits."""
    probabilities: float
    output_logits: float


def distance(seen: EngineRun, golden: Golden) -> Distance:
    """Compare a run token by token with a reference: sets and weights of all tokens, logits of the kept ones.

    Weights are what the gate gives, in float64, or what the router returned.
    """
    gate = gates.parse(seen.gate)
    assert gate is not None, f"the gate {seen.gate} is not known"
    weights = seen.applied
    if weights is None:
        weights = gates.weights(gate, seen.logits, gates.scores(gate, seen.logits), seen.experts)
    expected = probabilities(seen.gate, golden.router_logits)
    return Distance(
        unequal=int((np.sort(seen.experts) != np.sort(golden.experts)).any(-1).sum()),
        weights=None if weights is None else _apart(seen, weights, golden) / (gate.scale or 1.0),
        probabilities=float(np.abs(probabilities(seen.gate, seen.logits[golden.kept]) - expected).max()),
        output_logits=float(np.abs(seen.output_logits[golden.kept] - golden.output_logits).max()),
    )


def _apart(seen: EngineRun, weights: Array, golden: Golden) -> float:
    return float(np.abs(spread(seen.experts, weights, seen.logits.shape[-1]) - golden.all_weights()).max())
