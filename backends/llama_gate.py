"""How a llama.cpp model turns its routers' scores into weights: read off its own graph, and checked on its numbers.

All families go through one function of llama.cpp's (`build_moe_ffn`), which gives every step a name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from backends.engine import Floats
from backends.layer_checks import check_same_experts
from backends.llama_library import Tensor, operation
from backends.llama_tap import READ_AT, PythonTap, RouterRows, strided
from routing.errors import UserError
from routing.gates import UNKNOWN_GATE, Gate, Scores, Weighting, scores, weights

SOFTMAX, NORM, SCALED = (f"{READ_AT}_{step}" for step in ("softmax", "norm", "scaled"))
"""What a model may make of the selected scores, in this order, before it multiplies with them."""

TOLERANCE = 1e-3
"""Of a sum of probabilities, and relative of weights: engines compute in float32 and below."""

OTHERWISE: dict[str, dict[str, Any]] = {
    "llama": {"weighting": Weighting.SOFTMAX_OF_SELECTED},
    "llama4": {"on_input": True},
    "gemma4": {"scale": None},
}
"""What the named steps do not tell, by architecture.

Mixtral (a `llama`) is defined by a softmax of the selected logits; llama.cpp computes the same number another way.
Llama 4 multiplies what experts are given; Gemma 4's experts have scales of their own beside these weights.
"""


@dataclass(frozen=True, slots=True)
class RouterGate:
    """What is known of a model's routers."""

    name: str
    """As `routing.gates` writes it, or `UNKNOWN_GATE`."""
    logits: Callable[[Floats], Floats] | None
    """From a router's scores to logits that mean the same; None if nothing is known."""

    @property
    def is_scored(self) -> bool:
        """Scores are what the gate made of logits; otherwise they are logits."""
        return self.logits is not _from_logits


UNKNOWN = RouterGate(UNKNOWN_GATE, None)


class ProbeTap(PythonTap):
    """Also reads what a model makes of the selected scores, step by step; for one token at a time.

    Args:
        apart: as for its base.
    """

    def __init__(self, *, apart: bool) -> None:
        super().__init__(apart=apart, further=(SOFTMAX, NORM, SCALED))
        self.scored_by: dict[int, str] = {}
        """The operation that gives the scores, by model layer index."""
        self.steps: dict[int, dict[str, Floats]] = defaultdict(dict)
        """Weights [k] after each step that there is, by model layer index."""

    def _read(self, name: str, layer: int, node: Tensor) -> None:
        super()._read(name, layer, node)
        if name == READ_AT:
            reshaped = Tensor.from_address(node.src[0])
            self.scored_by[layer] = operation(reshaped.src[0]) if reshaped.src[0] else ""
        if name in (READ_AT, SOFTMAX, NORM, SCALED):
            k = node.ne[0] * node.ne[1]
            self.steps[layer][name] = strided(node, (1, k), np.float32, (4 * k, 4))[0]


# -- what can be observed at all


def check_rows(seen: Sequence[RouterRows]) -> None:
    """One token's rows must be one per layer, of the same number of experts, and name experts.

    Raises:
        UserError: the model's routing cannot be observed.
    """
    if not seen:
        raise UserError("no MoE layer was found in this model", advice="give a Mixture-of-Experts model")
    if len({rows.layer for rows in seen}) != len(seen):
        raise UserError("layers with several routers cannot be shown", advice="give another model")
    check_same_experts([(rows.layer, rows.scores.shape[1]) for rows in seen])
    for rows in seen:
        chosen = np.unique(rows.experts)
        if len(chosen) != rows.experts.size or chosen[0] < 0 or chosen[-1] >= rows.scores.shape[1]:
            raise UserError(f"what the router of layer {rows.layer} selects is unreadable", advice="give another model")


def are_scores(gate: RouterGate, seen: Sequence[RouterRows]) -> bool:
    """The scores are there, and are what the gate says: the selected ones are among them, a softmax sums to 1."""
    picked = all(np.array_equal(np.take_along_axis(rows.scores, rows.experts, 1), rows.weights) for rows in seen)
    return picked and (gate.logits is not _from_softmax or all(_is_distribution(rows.scores) for rows in seen))


def _is_distribution(scored: Floats) -> bool:
    return bool(scored.min() >= 0 and np.abs(scored.sum(1) - 1).max() <= TOLERANCE)


# -- the gate


def read_gate(architecture: str, seen: Sequence[RouterRows], probe: ProbeTap) -> tuple[RouterGate, list[str]]:
    """The gate of a model, `UNKNOWN` if it is not one that is known, or does not hold; and what to warn of.

    Args:
        architecture: llama.cpp's name.
        seen: one token's rows.
        probe: the tap that saw them.
    """
    found = {_layer_gate(rows, probe) for rows in seen}
    if len(found) != 1 or (only := found.pop()) is None:
        return UNKNOWN, ["how its routers weight the experts is not known: only the selected experts are shown"]
    gate, logits = only
    known = RouterGate(str(replace(gate, **OTHERWISE.get(architecture, {}))), logits)
    if are_scores(known, seen) and all(_holds(gate, known, rows, probe) for rows in seen):
        return known, []
    return UNKNOWN, ["its routers do not compute what they seem to: only the selected experts are shown"]


def _layer_gate(rows: RouterRows, probe: ProbeTap) -> tuple[Gate, Callable[[Floats], Floats]] | None:
    """What the steps of one layer's router say; None if they are not known."""
    steps = probe.steps[rows.layer]
    weighting = Weighting.RENORMALISED if NORM in steps else Weighting.AS_THEY_ARE
    scale = _factor(steps) if SCALED in steps else 1.0
    if SOFTMAX in steps:
        is_known = NORM not in steps
        return (Gate(Scores.SOFTMAX, Weighting.SOFTMAX_OF_SELECTED, scale), _from_logits) if is_known else None
    match probe.scored_by[rows.layer]:
        case "SOFT_MAX":
            return Gate(Scores.SOFTMAX, weighting, scale), _from_softmax
        case "SIGMOID":
            return Gate(Scores.SIGMOID, weighting, scale), _from_sigmoid
        case _:
            return None


def _factor(steps: dict[str, Floats]) -> float:
    """What the weights were multiplied by at last, without the noise of float32."""
    *_, before, after = steps.values()
    return float(f"{np.median(after / before):.6g}")


def _holds(gate: Gate, known: RouterGate, rows: RouterRows, probe: ProbeTap) -> bool:
    """The model's own weights are those that the gate gives."""
    *_, applied = probe.steps[rows.layer].values()
    assert known.logits is not None
    logits = known.logits(rows.scores)
    expected = weights(gate, logits, scores(gate, logits), rows.experts.astype(np.int64))
    return expected is not None and np.allclose(applied, expected[0], rtol=TOLERANCE, atol=1e-6)


# -- logits from scores


def _from_logits(scored: Floats) -> Floats:
    """They are the logits."""
    return scored.astype(np.float64)


def _from_softmax(scored: Floats) -> Floats:
    """softmax(ln π) = π; the router's own logits differ from these by a constant."""
    with np.errstate(divide="ignore"):
        return np.log(scored, dtype=np.float64)


def _from_sigmoid(scored: Floats) -> Floats:
    """The inverse, infinite where the sigmoid is full or empty in float32."""
    exact = scored.astype(np.float64)
    with np.errstate(divide="ignore"):
        return np.log(exact) - np.log1p(-exact)
