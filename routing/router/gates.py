"""Gates: rules that turn router logits into probabilities and weights, with names that a header stores.

A gate does not select experts: a selection bias, expert groups and the like belong to the model, and the expert set is
always the one that the model selected.

References: shazeer-2017, mixtral-2024, gpt-oss-2025, olmoe-2024, qwen3-2025, deepseek-v3-2024, sparsemixer-2023,
grin-2024.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

import numpy as np

from moe_watch.routing.arrays import AnyFloats, Floats, Ints

UNKNOWN_GATE = "unknown"
"""Name of a gate of which only the selected experts are recorded."""


class Scores(Enum):
    """Activation of the logits, before any weight.

    References: shazeer-2017, deepseek-v3-2024.
    """

    SOFTMAX = "softmax"
    SIGMOID = "sigmoid"
    SQRT_SOFTPLUS = "sqrt_softplus"


class Weighting(Enum):
    """Rule that turns the scores of the selected experts into weights.

    References: mixtral-2024, gpt-oss-2025, olmoe-2024, qwen3-2025, deepseek-v3-2024, sparsemixer-2023, grin-2024.
    """

    AS_THEY_ARE = "as they are"
    RENORMALISED = "divided by their sum"
    SOFTMAX_OF_SELECTED = "softmax over the selected logits"
    SPARSEMIXER = "each the softmax over the logits near it"


NAMES = {
    (Scores.SOFTMAX, Weighting.SOFTMAX_OF_SELECTED): "top_k_softmax",
    (Scores.SOFTMAX, Weighting.AS_THEY_ARE): "softmax_top_k",
    (Scores.SOFTMAX, Weighting.RENORMALISED): "softmax_top_k_renormalised",
    (Scores.SIGMOID, Weighting.AS_THEY_ARE): "sigmoid_top_k",
    (Scores.SIGMOID, Weighting.RENORMALISED): "sigmoid_top_k_renormalised",
    (Scores.SQRT_SOFTPLUS, Weighting.AS_THEY_ARE): "sqrt_softplus_top_k",
    (Scores.SQRT_SOFTPLUS, Weighting.RENORMALISED): "sqrt_softplus_top_k_renormalised",
    (Scores.SOFTMAX, Weighting.SPARSEMIXER): "sparsemixer",
}
PARTS = {name: parts for parts, name in NAMES.items()}

ON_INPUT = "_on_input"
PER_EXPERT = "per_expert"

WRITTEN = re.compile(
    r"(?P<name>[a-z_]+?)"
    r"(?:\((?P<jitter>[0-9.e+-]+)\)|\(sum≥(?P<smallest>[0-9.e+-]+)\)|\(sum\+(?P<added>[0-9.e-]+)\))?"
    r"(?P<on_input>_on_input)?(?:×(?P<scale>per_expert|[0-9.e+-]+))?"
)


@dataclass(frozen=True, slots=True)
class Gate:
    """Rule that turns logits into weights.

    Written as in `top_k_softmax`, `sigmoid_top_k_renormalised×2.5`, `top_k_softmax×per_expert`,
    `sigmoid_top_k_on_input`, `sigmoid_top_k_renormalised(sum≥6.103515625e-05)`,
    `sigmoid_top_k_renormalised(sum+1e-06)` or `sparsemixer(0.01)`; `parse` reads that back.
    """

    scores: Scores
    weighting: Weighting
    scale: float | None = 1.0
    """Factor of every weight; None if each expert has a separate factor, so that logits alone do not give weights."""
    on_input: bool = False
    """The weights multiply the input of the experts instead of their output."""
    jitter: float = 0.0
    """Of a sparsemixer: half the relative distance within which a logit counts as near."""
    smallest_sum: float = 0.0
    """Of renormalised weights: a smaller sum of scores is replaced by this before the division."""
    added_to_sum: float = 0.0
    """Of renormalised weights: added to the sum of scores before the division; this or `smallest_sum` is 0."""

    def __str__(self) -> str:
        """Return the canonical name."""
        scale = "" if self.scale == 1.0 else f"×{PER_EXPERT if self.scale is None else format(self.scale, '.12g')}"
        name = NAMES[self.scores, self.weighting]
        return f"{name}{self._constant()}{ON_INPUT if self.on_input else ''}{scale}"

    def _constant(self) -> str:
        """Return the constant that the weighting needs, in parentheses; empty if there is none."""
        if self.weighting is Weighting.SPARSEMIXER:
            return f"({self.jitter:.12g})"
        if self.smallest_sum:
            return f"(sum≥{self.smallest_sum:.12g})"
        return f"(sum+{self.added_to_sum:.12g})" if self.added_to_sum else ""

    @property
    def may_sum_to_less(self) -> bool:
        """True if renormalised weights sum to less than the scale for tiny selected scores."""
        return bool(self.smallest_sum or self.added_to_sum)


@lru_cache(maxsize=16)  # called for every token
def parse(name: str) -> Gate | None:
    """Return the gate of that name; None if there is none, as for `UNKNOWN_GATE` and for names of newer versions."""
    written = WRITTEN.fullmatch(name)
    if written is None or written["name"] not in PARTS:
        return None
    try:
        gate = Gate(
            *PARTS[written["name"]],
            scale=None if written["scale"] == PER_EXPERT else float(written["scale"] or 1.0),
            on_input=written["on_input"] is not None,
            jitter=float(written["jitter"] or 0.0),
            smallest_sum=float(written["smallest"] or 0.0),
            added_to_sum=float(written["added"] or 0.0),
        )
    except ValueError:
        return None
    return gate if str(gate) == name else None


# -- arithmetic, in float64 over the last axis


def softmax(logits: AnyFloats) -> Floats:
    """Return the softmax over the last axis, in float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    total: Floats = shifted / shifted.sum(-1, keepdims=True)
    return total


def scores(gate: Gate, logits: AnyFloats) -> Floats:
    """Return the gate's scores of the logits `[..., E]`."""
    exact = logits.astype(np.float64)
    match gate.scores:
        case Scores.SOFTMAX:
            return softmax(exact)
        case Scores.SIGMOID:
            return np.exp(-np.logaddexp(0.0, -exact))
        case Scores.SQRT_SOFTPLUS:
            return np.sqrt(np.logaddexp(0.0, exact))


def probabilities(scored: Floats) -> Floats:
    """Return scores as a distribution over the experts: divided by their sum, which is 1 for a softmax."""
    result: Floats = scored / scored.sum(-1, keepdims=True)
    return result


def weights(gate: Gate, logits: AnyFloats, scored: Floats, selected: Ints) -> Floats | None:
    """Return the weights of the experts `selected` `[..., k]`; None if they do not follow from the logits.

    References: shazeer-2017, mixtral-2024, gpt-oss-2025, olmoe-2024, qwen3-2025, deepseek-v3-2024.
    """
    if gate.scale is None:
        return None
    chosen = np.take_along_axis(scored, selected, -1)
    match gate.weighting:
        case Weighting.AS_THEY_ARE:
            applied = chosen
        case Weighting.RENORMALISED | Weighting.SOFTMAX_OF_SELECTED:  # for a softmax both give the same number
            total = np.maximum(chosen.sum(-1, keepdims=True), gate.smallest_sum) + gate.added_to_sum
            applied = chosen / total
        case Weighting.SPARSEMIXER:
            applied = _sparsemixer(logits.astype(np.float64), selected, gate.jitter)
    return gate.scale * applied


def _sparsemixer(logits: Floats, selected: Ints, jitter: float) -> Floats:
    """Return the weights of Phi-3.5-MoE: each expert's softmax over the logits near it and not above it, in order.

    Args:
        logits: `[..., E]`.
        selected: `[..., k]`, by logit, highest first.
        jitter: half the relative distance within which a logit counts as near.

    References: sparsemixer-2023, grin-2024.
    """
    left = logits.copy()
    shares = []
    for rank in range(selected.shape[-1]):
        expert = selected[..., rank : rank + 1]
        top = np.take_along_axis(logits, expert, -1)
        far = top - logits > 2 * jitter * np.maximum(np.abs(logits), top)
        shares.append(np.take_along_axis(softmax(np.where(far, -np.inf, left)), expert, -1))
        np.put_along_axis(left, expert, -np.inf, -1)
    return np.concatenate(shares, axis=-1)
