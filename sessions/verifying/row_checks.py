"""What must hold in every token and layer, whatever the model: weights, entropy and margin come from one distribution.

Each check is given successive tokens as arrays and says in which rows it does not hold. Nothing is asked of a gate that
is not known, and nothing that depends on how experts are selected: models add biases and groups to that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from moe_watch.routing.arrays import ABSENT, Flags, Floats
from moe_watch.routing.events import Header
from moe_watch.routing.router.gates import Gate, Scores, Weighting, parse
from moe_watch.routing.router.observe import normalised_entropy, router_margin
from moe_watch.routing.row_layout import RowLayout
from moe_watch.sessions.reading.token_arrays import TokenArrays

NOISE = 1.0
"""Steps that engines' own arithmetic, in float32, may add to the half step of rounding."""
SUMMING_TO_ONE = frozenset({Weighting.RENORMALISED, Weighting.SOFTMAX_OF_SELECTED})
CAPTURED = ("weights", "entropy", "margin")
OF_A_CHOICE = frozenset({"entropy", "margin"})
"""What a single expert does not have."""


@dataclass(frozen=True, slots=True)
class Faults:
    """Rows where something does not hold."""

    rows: Flags
    """[T, L]"""
    words: Callable[[int, int], str]
    """What is wrong in one of them, by token and layer."""


RowCheck = Callable[[TokenArrays, Header], Faults | None]


def weight_sums(found: TokenArrays, header: Header) -> Faults | None:
    """Weights that a gate divides by their sum must sum to its scale; those of a softmax to no more than it.

    Neither may those of a gate that keeps the sum away from 0.
    """
    gate = _scaled(header)
    if gate is None or gate.scale is None:
        return None
    scale, sums = gate.scale, _sums(found)
    slack = (RowLayout.of(header.model).k / 2 + NOISE) * header.units.weights
    excess = sums - scale
    if gate.weighting in SUMMING_TO_ONE:
        wrong = excess > slack if gate.may_sum_to_less else np.abs(excess) > slack
    elif gate.scores is Scores.SOFTMAX and gate.weighting is Weighting.AS_THEY_ARE:
        wrong = excess > slack
    else:
        return None
    return Faults(wrong, lambda t, at: f"weights sum to {sums[t, at]:.4f}, where {gate} allows {scale:g}")


def weight_order(found: TokenArrays, header: Header) -> Faults | None:
    """Experts stand by probability, and weights ascend with it."""
    gate = _scaled(header)
    if gate is None or gate.weighting is Weighting.SPARSEMIXER:
        return None
    rises = np.diff(found.weights, axis=-1) > (1 + NOISE) * header.units.weights

    def words(t: int, at: int) -> str:
        rank = int(rises[t, at].argmax())
        first, second = found.experts[t, at, rank : rank + 2]
        return f"expert {second} weighs more than expert {first}, which stands before it"

    return Faults(rises.sum(-1) > 0, words)


def entropy_against_margin(found: TokenArrays, header: Header) -> Faults | None:
    """A distribution with this margin has an entropy between that of two values and that of one above equal others."""
    experts = header.model.experts
    if experts < 2 or parse(header.model.gate) is None:
        return None
    by_margin, by_entropy = ((0.5 + NOISE) * unit for unit in (header.units.margin, header.units.entropy))
    least = _of_two(np.minimum(found.margin + by_margin, 1.0), experts) - by_entropy
    most = _of_one_above(np.maximum(found.margin - by_margin, 0.0), experts) + by_entropy

    def words(t: int, at: int) -> str:
        between = f"{max(0.0, least[t, at]):.4f} and {min(1.0, most[t, at]):.4f}"
        return (
            f"entropy {found.entropy[t, at]:.4f} with margin {found.margin[t, at]:.4f}: it must lie between {between}"
        )

    return Faults((found.entropy < least) | (found.entropy > most), words)


def margin_against_weights(found: TokenArrays, header: Header) -> Faults | None:
    """The first two experts' probabilities differ by no more than their weights, if they are the likeliest two.

    A model whose selection is biased may choose others at some tokens, so this need not hold in every row.
    """
    gate = _scaled(header)
    if gate is None or gate.scale is None or gate.scores is not Scores.SOFTMAX or found.weights.shape[-1] < 2:
        return None
    if gate.weighting is Weighting.SPARSEMIXER:
        return None
    difference = (found.weights[..., 0] - found.weights[..., 1]) / gate.scale
    slack = (0.5 + NOISE) * header.units.margin + (1 + NOISE) * header.units.weights / gate.scale
    excess = found.margin - difference
    wrong = np.abs(excess) > slack if gate.weighting is Weighting.AS_THEY_ARE else excess > slack

    def words(t: int, at: int) -> str:
        return f"margin {found.margin[t, at]:.4f}, and weights that differ by {difference[t, at]:.4f}"

    return Faults(wrong, words)


def probabilities(found: TokenArrays, header: Header) -> Faults | None:
    """Probabilities sum to 1, and entropy and margin are theirs."""
    spread = found.probabilities
    if spread is None or header.model.experts < 2:
        return None
    slack = (header.model.experts / 2 + NOISE) * header.units.weights
    sums = spread.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = spread / sums[..., None]
        entropies = normalised_entropy(np.nan_to_num(shares))
    margins = np.where(np.isnan(sums), np.nan, router_margin(np.nan_to_num(spread)))
    wrong: Flags = np.abs(sums - 1) > slack
    wrong |= np.abs(margins - found.margin) > 2 * header.units.weights + (0.5 + NOISE) * header.units.margin
    wrong |= ~np.isnan(sums) & (np.abs(entropies - found.entropy) > 0.01 + slack)
    return Faults(wrong, lambda t, at: f"probabilities that sum to {sums[t, at]:.4f} do not give entropy and margin")


def captured(found: TokenArrays, header: Header) -> Faults | None:
    """What the header says was captured stands beside every set of experts, and nothing else does."""
    observed = found.experts[..., 0] != ABSENT
    expected = set(header.capture) - (OF_A_CHOICE if header.model.experts == 1 else set())
    known: dict[str, Flags] = {
        "weights": ~np.isnan(found.weights[..., 0]),
        "entropy": ~np.isnan(found.entropy),
        "margin": ~np.isnan(found.margin),
    }
    wrong: dict[str, Flags] = {name: known[name] != (observed & (name in expected)) for name in CAPTURED}

    def words(t: int, at: int) -> str:
        name = next(name for name in CAPTURED if wrong[name][t, at])
        return f"{name} there" if known[name][t, at] else f"no {name}, which the header says were captured"

    anything: Flags = np.logical_or.reduce(list(wrong.values()))
    return Faults(anything, words)


EVERY_ROW: dict[str, RowCheck] = {
    "captured": captured,
    "weights": weight_sums,
    "order of weights": weight_order,
    "entropy and margin": entropy_against_margin,
    "probabilities": probabilities,
}
MOST_ROWS: dict[str, RowCheck] = {"margin and weights": margin_against_weights}
"""Those that a sound file may break in some rows, but not in most of a layer's."""


def _sums(found: TokenArrays) -> Floats:
    """Sum of the weights of each row `[T, L]`; NaN where one is not known."""
    computed = found.experts[..., 0] != ABSENT
    weights = np.where((found.experts == ABSENT) & computed[..., None], 0.0, found.weights)
    result: Floats = weights.sum(-1)
    return result


def _scaled(header: Header) -> Gate | None:
    """The gate, if it is known and gives all experts the same scale."""
    gate = parse(header.model.gate)
    return None if gate is None or gate.scale is None or gate.scale <= 0 else gate


def _of_two(margin: Floats, experts: int) -> Floats:
    """Entropy over ln E of two values that differ by this and sum to 1: the least there can be."""
    shares = np.stack([(1 + margin) / 2, (1 - margin) / 2], -1)
    return _entropy(shares, experts)


def _of_one_above(margin: Floats, experts: int) -> Floats:
    """Entropy over ln E of one value that is this much above E − 1 equal ones: the most there can be."""
    other = (1 - margin) / experts
    first = other + margin
    return _entropy(first[..., None], experts) + (experts - 1) * _entropy(other[..., None], experts)


def _entropy(shares: Floats, experts: int) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(shares > 0, shares * np.log(shares), shares * 0.0)
    result: Floats = -terms.sum(-1) / np.log(experts)
    return result
