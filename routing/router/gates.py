"""How a router's logits become probabilities and weights, as a value that a header can name and a reader can parse.

A gate says nothing about which experts are selected: a selection bias, expert groups and the like are the model's
business, and the set is always the model's own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

import numpy as np

from moe_watch.routing.arrays import AnyFloats, Floats, Ints

UNKNOWN_GATE = "unknown"
"""The name of a gate about which nothing but the selected experts is said."""


class Scores(Enum):
    """What a logit becomes, before any weight."""

    SOFTMAX = "softmax"
    SIGMOID = "sigmoid"
    SQRT_SOFTPLUS = "sqrt_softplus"


class Weighting(Enum):
    """What the scores of the selected experts become."""

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
    """How logits become weights.

    Written as in `top_k_softmax`, `sigmoid_top_k_renormalised×2.5`, `top_k_softmax×per_expert`,
    `sigmoid_top_k_on_input`, `sigmoid_top_k_renormalised(sum≥6.103515625e-05)`,
    `sigmoid_top_k_renormalised(sum+1e-06)` or `sparsemixer(0.01)`; `parse` reads that back.
    """

    scores: Scores
    weighting: Weighting
    scale: float | None = 1.0
    """Multiplies every weight; None if each expert has its own, so that weights do not follow from logits alone."""
    on_input: bool = False
    """The weights multiply what the experts are given, not what they give."""
    jitter: float = 0.0
    """Of a sparsemixer: half the relative distance within which a logit counts as near."""
    smallest_sum: float = 0.0
    """Of renormalised weights: a smaller sum of scores is replaced by this before the division."""
    added_to_sum: float = 0.0
    """Of renormalised weights: added to the sum of scores before the division; one of the two is 0."""

    def __str__(self) -> str:
        """The canonical name."""
        scale = "" if self.scale == 1.0 else f"×{PER_EXPERT if self.scale is None else format(self.scale, '.12g')}"
        name = NAMES[self.scores, self.weighting]
        return f"{name}{self._constant()}{ON_INPUT if self.on_input else ''}{scale}"

    def _constant(self) -> str:
        """The constant that the weighting needs, in parentheses; empty if there is none."""
        if self.weighting is Weighting.SPARSEMIXER:
            return f"({self.jitter:.12g})"
        if self.smallest_sum:
            return f"(sum≥{self.smallest_sum:.12g})"
        return f"(sum+{self.added_to_sum:.12g})" if self.added_to_sum else ""

    @property
    def may_sum_to_less(self) -> bool:
        """Renormalised weights sum to less than the scale where the selected scores are tiny."""
        return bool(self.smallest_sum or self.added_to_sum)


@lru_cache(maxsize=16)  # asked for every token
def parse(name: str) -> Gate | None:
    """The gate of that name; None if there is none, as for `UNKNOWN_GATE` and for names of newer versions."""
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
    """Softmax over the last axis, in float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    total: Floats = shifted / shifted.sum(-1, keepdims=True)
    return total


def scores(gate: Gate, logits: AnyFloats) -> Floats:
    """What the gate makes of each logit `[..., E]`."""
    exact = logits.astype(np.float64)
    match gate.scores:
        case Scores.SOFTMAX:
            return softmax(exact)
        case Scores.SIGMOID:
            return np.exp(-np.logaddexp(0.0, -exact))
        case Scores.SQRT_SOFTPLUS:
            return np.sqrt(np.logaddexp(0.0, exact))


def probabilities(scored: Floats) -> Floats:
    """Scores as a distribution over the experts: divided by their sum, which for a softmax is 1."""
    result: Floats = scored / scored.sum(-1, keepdims=True)
    return result


def weights(gate: Gate, logits: AnyFloats, scored: Floats, selected: Ints) -> Floats | None:
    """What the experts `selected` `[..., k]` are multiplied by; None if that does not follow from the logits."""
    if gate.scale is None:
        return None
    chosen = np.take_along_axis(scored, selected, -1)
    match gate.weighting:
        case Weighting.AS_THEY_ARE:
            applied = chosen
        case Weighting.RENORMALISED | Weighting.SOFTMAX_OF_SELECTED:  # for a softmax these are the same number
            total = np.maximum(chosen.sum(-1, keepdims=True), gate.smallest_sum) + gate.added_to_sum
            applied = chosen / total
        case Weighting.SPARSEMIXER:
            applied = _sparsemixer(logits.astype(np.float64), selected, gate.jitter)
    return gate.scale * applied


def _sparsemixer(logits: Floats, selected: Ints, jitter: float) -> Floats:
    """Phi-3.5-MoE's: each expert's share among the logits near it that are not above it, one expert after another.

    Args:
        logits: `[..., E]`
        selected: `[..., k]`, by logit, highest first.
        jitter: Half the relative distance within which a logit counts as near.
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
