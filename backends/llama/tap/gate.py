"""How a llama.cpp model turns its routers' scores into weights: read off its own graph, and checked on its numbers.

All families go through one function of llama.cpp's (`build_moe_ffn`), which gives every step a name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from moe_watch.backends.engine import Floats
from moe_watch.backends.layer_checks import check_same_experts
from moe_watch.backends.llama.bindings import GgmlTensor, operation
from moe_watch.backends.llama.tap.callback import READ_AT, PythonTap, RouterRows, read_weights
from moe_watch.routing.arrays import Flags
from moe_watch.routing.errors import UserError
from moe_watch.routing.router.gates import UNKNOWN_GATE, Gate, Scores, Weighting, parse, scores, weights

SOFTMAX, NORM, SCALED = STEPS = tuple(f"{READ_AT}_{step}" for step in ("softmax", "norm", "scaled"))
"""Steps from the selected scores to the weights, in this order; a model has some of them or none."""

TOLERANCE = 1e-3
"""Of a sum of probabilities, and relative of weights: engines compute in float32 and below."""

SMALLEST_DIFFERENCE = 1e-6
"""Between weights, below which they are equal."""

SMALLEST_SHARE = 1e-4
"""No router has as many experts that the highest probability is below this."""

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
    """As `moe_watch.routing.router.gates` writes it, or `UNKNOWN_GATE`."""
    logits: Callable[[Floats], Floats] | None
    """From a router's scores to logits that mean the same; None if nothing is known."""
    applied_at: str | None = None
    """Node whose value the model multiplies the experts with; None if the selected scores are the weights."""

    @property
    def is_scored(self) -> bool:
        """Scores are what the gate made of logits; otherwise they are logits."""
        return self.logits is not _from_logits

    def weighs(self, rows: RouterRows, applied: Floats) -> Flags | None:
        """Return per token [T] whether the gate gives the weights [T, k] that the model applied; None if it is unknown.

        The scores must be the selected ones, too.
        """
        gate = parse(self.name)
        if gate is None or self.logits is None:
            return None
        scored = np.take_along_axis(rows.scores, rows.experts, 1)
        picked = np.isclose(scored, rows.weights, rtol=0, atol=0, equal_nan=True)
        with np.errstate(invalid="ignore"):
            logits = self.logits(rows.scores)
            expected = weights(gate, logits, scores(gate, logits), rows.experts.astype(np.int64))
        if expected is not None:
            picked &= np.isclose(applied, expected, rtol=TOLERANCE, atol=SMALLEST_DIFFERENCE, equal_nan=True)
        held: Flags = np.asarray(picked.all(1))
        return held


UNKNOWN = RouterGate(UNKNOWN_GATE, None)


class ProbeTap(PythonTap):
    """Also reads what a model makes of the selected scores, step by step; for one token at a time.

    Args:
        apart: as for its base.
    """

    def __init__(self, *, apart: bool) -> None:
        super().__init__(apart=apart, further=STEPS)
        self.scored_by: dict[int, str] = {}
        """The operation that gives the scores, by model layer index."""
        self.selects_by_scores: dict[int, bool] = {}
        """The experts with the highest scores are selected: nothing is added to them, no group left out."""
        self.smallest_sum: dict[int, float] = defaultdict(float)
        """Bound that the sum of the selected scores is clamped to before the division, by model layer index."""
        self.scale: dict[int, float] = {}
        """Factor of the last step, by model layer index."""
        self.steps: dict[int, dict[str, Floats]] = defaultdict(dict)
        """Weights [k] after each step that there is, by model layer index."""

    def _read(self, name: str, layer: int, node: GgmlTensor) -> None:
        super()._read(name, layer, node)
        if name == READ_AT:
            scored, ranking = _sources_of_selection(node)
            self.scored_by[layer] = operation(scored) if scored else ""
            self.selects_by_scores[layer] = scored is not None and scored == ranking
        if name == NORM and operation(node.src[1]) == "CLAMP":
            self.smallest_sum[layer] = _parameter(GgmlTensor.from_address(node.src[1]))
        if name == SCALED:
            self.scale[layer] = _parameter(node)
        if name in (READ_AT, *STEPS):
            self.steps[layer][name] = read_weights(node)[0]


def _sources_of_selection(node: GgmlTensor) -> tuple[int | None, int | None]:
    """Addresses of the scores, and of the values by which experts are ranked, from the node that picks scores."""
    scored = GgmlTensor.from_address(node.src[0]).src[0]
    ids = GgmlTensor.from_address(node.src[1])
    if not ids.src[0]:
        return scored, None
    ranking = GgmlTensor.from_address(ids.src[0])
    return scored, ranking.src[0]


def _parameter(node: GgmlTensor) -> float:
    """The first parameter of an operation: the shortest number that is the same float32."""
    return float(str(np.int32(node.op_params[0]).view(np.float32)))


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
    last = {[*probe.steps[rows.layer]][-1] for rows in seen}.pop()
    known = RouterGate(str(replace(gate, **OTHERWISE.get(architecture, {}))), logits, last if last in STEPS else None)
    as_computed = replace(known, name=str(gate))
    if are_scores(known, seen) and all(_holds(as_computed, rows, probe) for rows in seen):
        return known, []
    return UNKNOWN, ["its routers do not compute what they seem to: only the selected experts are shown"]


def _layer_gate(rows: RouterRows, probe: ProbeTap) -> tuple[Gate, Callable[[Floats], Floats]] | None:
    """What the steps of one layer's router say; None if they are not known."""
    steps = probe.steps[rows.layer]
    weighting = Weighting.RENORMALISED if NORM in steps else Weighting.AS_THEY_ARE
    scale = probe.scale.get(rows.layer, 1.0)
    if SOFTMAX in steps:
        is_known = NORM not in steps
        return (Gate(Scores.SOFTMAX, Weighting.SOFTMAX_OF_SELECTED, scale), _from_logits) if is_known else None
    match probe.scored_by[rows.layer]:
        case "SOFT_MAX":
            score, logits = Scores.SOFTMAX, _from_softmax
        case "SIGMOID":
            score, logits = Scores.SIGMOID, _from_sigmoid
        case _:
            return None
    return Gate(score, weighting, scale, smallest_sum=_smallest_sum(rows.layer, score, probe)), logits


def _smallest_sum(layer: int, score: Scores, probe: ProbeTap) -> float:
    """The bound of the sum, where it can matter: the k highest of a softmax sum to k / E at least."""
    bound = probe.smallest_sum[layer]
    return 0.0 if score is Scores.SOFTMAX and probe.selects_by_scores[layer] and bound < SMALLEST_SHARE else bound


def _holds(known: RouterGate, rows: RouterRows, probe: ProbeTap) -> bool:
    """The model's own weights are those that the gate gives."""
    *_, applied = probe.steps[rows.layer].values()
    held = known.weighs(rows, applied[None])
    return held is not None and bool(held.all())


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
