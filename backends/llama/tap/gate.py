"""Gate of a llama.cpp model, from router scores to weights: read from its graph, and checked on its numbers.

All families use one function of llama.cpp (`build_moe_ffn`), which names every step.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from moe_watch.backends.engine import Floats
from moe_watch.backends.layer_checks import check_same_experts
from moe_watch.backends.llama.bindings import GgmlTensor, operation
from moe_watch.backends.llama.tap.base import READ_AT
from moe_watch.backends.llama.tap.masking import Selection, read_selection
from moe_watch.backends.llama.tap.python_tap import PythonTap, read_weights
from moe_watch.backends.llama.tap.router_rows import RouterRows
from moe_watch.backends.model_files.dense import THOUGH_EXPERTS
from moe_watch.routing.arrays import Flags
from moe_watch.routing.errors import UserError
from moe_watch.routing.header import NO_GATE
from moe_watch.routing.router.gates import UNKNOWN_GATE, Gate, Scores, Weighting, parse, scores, weights

SOFTMAX, NORM, SCALED = STEPS = tuple(f"{READ_AT}_{step}" for step in ("softmax", "norm", "scaled"))
"""Steps from the selected scores to the weights, in this order; a model has none, some or all of them."""

TOLERANCE = 1e-3
"""Absolute for a sum of probabilities, relative for weights: engines compute in float32 and below."""

SMALLEST_DIFFERENCE = 1e-6
"""Weights that differ by less are equal."""

SMALLEST_SHARE = 1e-4
"""Lower bound of the highest probability of a router; it holds for fewer than 10,000 experts."""

BY_ARCHITECTURE: dict[str, Callable[[Gate], Gate]] = {
    "llama": lambda gate: replace(gate, weighting=Weighting.SOFTMAX_OF_SELECTED),
    "llama4": lambda gate: replace(gate, on_input=True),
    "gemma4": lambda gate: replace(gate, scale=None),
}
"""Properties of a gate that the named steps do not show, by architecture.

Mixtral (a `llama`) is defined by a softmax of the selected logits; llama.cpp computes the same number another way.
Llama 4 multiplies the inputs of experts; Gemma 4's experts have separate scales beside these weights.
"""


@dataclass(frozen=True, slots=True)
class RouterGate:
    """Gate of a model's routers."""

    name: str
    """Name of the gate in `moe_watch.routing.router.gates`, or `UNKNOWN_GATE`."""
    logits: Callable[[Floats], Floats] | None
    """Function from a router's scores to equivalent logits; None if the gate is not known."""
    applied_at: str | None = None
    """Node with the weights that multiply the experts' outputs; None if the selected scores are the weights."""

    @property
    def is_scored(self) -> bool:
        """Scores are the output of the gate; otherwise they are logits."""
        return self.logits is not _from_logits

    def weighs(self, rows: RouterRows, applied: Floats) -> Flags | None:
        """Return per token [T] whether the gate gives the weights [T, k] that the model applied; None if it is unknown.

        The picked scores must also equal the scores of the selected experts.
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

ABSENT_GATE = RouterGate(NO_GATE, None)
"""Gate of a dense model."""


class ProbeTap(PythonTap):
    """Tap that also reads each step from the selected scores to the weights; for one token at a time.

    Args:
        apart: as for the base class.
    """

    def __init__(self, *, apart: bool) -> None:
        super().__init__(apart=apart, further=STEPS)
        self.scored_by: dict[int, str] = {}
        """Operation that computes the scores, by model layer index."""
        self.selects_by_scores: dict[int, bool] = {}
        """The experts with the highest scores are selected, without a bias and without group selection."""
        self.smallest_sum: dict[int, float] = defaultdict(float)
        """Bound that the sum of the selected scores is clamped to before the division, by model layer index."""
        self.scale: dict[int, float] = {}
        """Factor of the last step, by model layer index."""
        self.selections: dict[int, Selection] = {}
        """Selection of the experts, by model layer index."""
        self.steps: dict[int, dict[str, Floats]] = defaultdict(dict)
        """Weights [k] after each step of the model, by model layer index."""

    def _read(self, name: str, layer: int, node: GgmlTensor) -> None:
        super()._read(name, layer, node)
        if name == READ_AT:
            scored, ranking = _sources_of_selection(node)
            self.scored_by[layer] = operation(scored) if scored else ""
            self.selects_by_scores[layer] = scored is not None and scored == ranking
            self.selections[layer] = read_selection(layer, node)
        if name == NORM and operation(node.src[1]) == "CLAMP":
            self.smallest_sum[layer] = _parameter(GgmlTensor.from_address(node.src[1]))
        if name == SCALED:
            self.scale[layer] = _parameter(node)
        if name in (READ_AT, *STEPS):
            self.steps[layer][name] = read_weights(node)[0]


def _sources_of_selection(node: GgmlTensor) -> tuple[int | None, int | None]:
    """Return the addresses of the scores and of the values that experts are ranked by, given the node that picks."""
    scored = GgmlTensor.from_address(node.src[0]).src[0]
    ids = GgmlTensor.from_address(node.src[1])
    if not ids.src[0]:
        return scored, None
    ranking = GgmlTensor.from_address(ids.src[0])
    return scored, ranking.src[0]


def _parameter(node: GgmlTensor) -> float:
    """Return the first parameter of an operation, as the shortest decimal number with the same float32."""
    return float(str(np.int32(node.op_params[0]).view(np.float32)))


# -- checks of the rows


def check_rows(seen: Sequence[RouterRows]) -> None:
    """Check that one token has one row per layer, with the same number of experts and valid expert ids.

    Raises:
        UserError: the model's routing cannot be observed.
    """
    if not seen:
        raise UserError(f"no MoE layer was found in this model, {THOUGH_EXPERTS}", advice="give another model")
    if len({rows.layer for rows in seen}) != len(seen):
        raise UserError("layers with several routers are not supported", advice="give another model")
    check_same_experts([(rows.layer, rows.scores.shape[1]) for rows in seen])
    for rows in seen:
        chosen = np.unique(rows.experts)
        if len(chosen) != rows.experts.size or chosen[0] < 0 or chosen[-1] >= rows.scores.shape[1]:
            raise UserError(
                f"the router of layer {rows.layer} selects invalid expert ids", advice="give another file of the model"
            )


def are_scores(gate: RouterGate, seen: Sequence[RouterRows]) -> bool:
    """Return whether the rows fit the gate: picked scores equal the selected experts' scores, a softmax sums to 1."""
    picked = all(np.array_equal(np.take_along_axis(rows.scores, rows.experts, 1), rows.weights) for rows in seen)
    return picked and (gate.logits is not _from_softmax or all(_is_distribution(rows.scores) for rows in seen))


def _is_distribution(scored: Floats) -> bool:
    return bool(scored.min() >= 0 and np.abs(scored.sum(1) - 1).max() <= TOLERANCE)


# -- the gate


def read_gate(architecture: str, seen: Sequence[RouterRows], probe: ProbeTap) -> tuple[RouterGate, list[str]]:
    """Return the gate of a model and warnings; the gate is `UNKNOWN` if its steps are not known, or it does not hold.

    Args:
        architecture: llama.cpp's name of the architecture.
        seen: rows of one token.
        probe: the tap that read them.
    """
    found = {_layer_gate(rows, probe) for rows in seen}
    if len(found) != 1 or (only := found.pop()) is None:
        return UNKNOWN, ["the gate of the routers is not known: only the selected experts are shown"]
    gate, logits = only
    last = {[*probe.steps[rows.layer]][-1] for rows in seen}.pop()
    named = BY_ARCHITECTURE[architecture](gate) if architecture in BY_ARCHITECTURE else gate
    known = RouterGate(str(named), logits, last if last in STEPS else None)
    as_computed = replace(known, name=str(gate))
    if are_scores(known, seen) and all(_holds(as_computed, rows, probe) for rows in seen):
        return known, []
    return UNKNOWN, ["the routers' weights do not fit the gate in the graph: only the selected experts are shown"]


def _layer_gate(rows: RouterRows, probe: ProbeTap) -> tuple[Gate, Callable[[Floats], Floats]] | None:
    """Return the gate of one layer by its steps, and its function to logits; None if the steps are not known."""
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
    """Return the bound of the sum, or 0 if it has no effect: the k highest of a softmax sum to at least k / E."""
    bound = probe.smallest_sum[layer]
    return 0.0 if score is Scores.SOFTMAX and probe.selects_by_scores[layer] and bound < SMALLEST_SHARE else bound


def _holds(known: RouterGate, rows: RouterRows, probe: ProbeTap) -> bool:
    """Return whether the weights that the model applied equal the weights that the gate gives."""
    *_, applied = probe.steps[rows.layer].values()
    held = known.weighs(rows, applied[None])
    return held is not None and bool(held.all())


# -- logits from scores


def _from_logits(scored: Floats) -> Floats:
    """Return the scores, which are the logits."""
    return scored.astype(np.float64)


def _from_softmax(scored: Floats) -> Floats:
    """Return ln π, because softmax(ln π) = π; the router's own logits differ by a constant."""
    with np.errstate(divide="ignore"):
        return np.log(scored, dtype=np.float64)


def _from_sigmoid(scored: Floats) -> Floats:
    """Return the inverse of the sigmoid, infinite where it is 0 or 1 in float32."""
    exact = scored.astype(np.float64)
    with np.errstate(divide="ignore"):
        return np.log(exact) - np.log1p(-exact)
