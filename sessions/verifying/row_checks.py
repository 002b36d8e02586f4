"""Checks of each row, one token in one layer, for any model: weights, entropy and margin are of one distribution.

A check takes successive tokens as arrays and returns the rows that fail. It skips an unknown gate, and assumes nothing
about the selection of experts, which depends on biases and groups of the model.
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
"""Tolerance in units for the float32 error of an engine, in addition to half a unit of rounding."""
SUMMING_TO_ONE = frozenset({Weighting.RENORMALISED, Weighting.SOFTMAX_OF_SELECTED})
CAPTURED = ("weights", "entropy", "margin")
OF_A_CHOICE = frozenset({"entropy", "margin"})
"""Quantities that a model with a single expert does not have."""


@dataclass(frozen=True, slots=True)
class Faults:
    """Rows that fail one check."""

    rows: Flags
    """[T, L]"""
    words: Callable[[int, int], str]
    """Describe the fault of a row, by token and layer."""


RowCheck = Callable[[TokenArrays, Header], Faults | None]


def weight_sums(found: TokenArrays, header: Header) -> Faults | None:
    """Check the sum of the weights of a row.

    The weights of a gate that normalizes them sum to its scale, or to at most its scale if the gate keeps the divisor
    away from 0. The weights of a softmax over all experts sum to at most the scale.
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
    return Faults(wrong, lambda t, at: f"weights sum to {sums[t, at]:.4f}, but gate {gate} allows {scale:g}")


def weight_order(found: TokenArrays, header: Header) -> Faults | None:
    """Check that weights descend: experts are in descending order of router probability."""
    gate = _scaled(header)
    if gate is None or gate.weighting is Weighting.SPARSEMIXER:
        return None
    rises = np.diff(found.weights, axis=-1) > (1 + NOISE) * header.units.weights

    def words(t: int, at: int) -> str:
        rank = int(rises[t, at].argmax())
        first, second = found.experts[t, at, rank : rank + 2]
        return f"expert {second} has a larger weight than expert {first} before it"

    return Faults(rises.sum(-1) > 0, words)


def entropy_against_margin(found: TokenArrays, header: Header) -> Faults | None:
    """Check that the entropy is possible with the margin.

    With a given margin, entropy is least for two values, and largest for one value above E − 1 equal values.
    """
    experts = header.model.experts
    if experts < 2 or parse(header.model.gate) is None:
        return None
    by_margin, by_entropy = ((0.5 + NOISE) * unit for unit in (header.units.margin, header.units.entropy))
    least = _of_two(np.minimum(found.margin + by_margin, 1.0), experts) - by_entropy
    most = _of_one_above(np.maximum(found.margin - by_margin, 0.0), experts) + by_entropy

    def words(t: int, at: int) -> str:
        possible = f"{max(0.0, least[t, at]):.4f} to {min(1.0, most[t, at]):.4f}"
        return f"entropy {found.entropy[t, at]:.4f} with margin {found.margin[t, at]:.4f}, possible is {possible}"

    return Faults((found.entropy < least) | (found.entropy > most), words)


def margin_against_weights(found: TokenArrays, header: Header) -> Faults | None:
    """Check that the margin is at most the difference of the first two weights, if these experts are the most likely.

    With a selection bias, a model may select other experts for some tokens, so some rows of a valid file fail.
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
        return f"margin {found.margin[t, at]:.4f}, but the weights differ by {difference[t, at]:.4f}"

    return Faults(wrong, words)


def probabilities(found: TokenArrays, header: Header) -> Faults | None:
    """Check that router probabilities sum to 1, and give entropy and margin."""
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
    return Faults(
        wrong, lambda t, at: f"router probabilities, with sum {sums[t, at]:.4f}, do not give entropy and margin"
    )


def captured(found: TokenArrays, header: Header) -> Faults | None:
    """Check that each expert set has all quantities that the header lists as captured, and no other."""
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
        state = "has" if known[name][t, at] else "has no"
        listed = "lists" if name in expected else "does not list"
        return f"{state} {name}, which the header {listed} as captured"

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
"""Checks that a valid file may fail in some rows, but not in most rows of a layer."""


def _sums(found: TokenArrays) -> Floats:
    """Return the sum of the weights of each row `[T, L]`; NaN if one is absent."""
    computed = found.experts[..., 0] != ABSENT
    weights = np.where((found.experts == ABSENT) & computed[..., None], 0.0, found.weights)
    result: Floats = weights.sum(-1)
    return result


def _scaled(header: Header) -> Gate | None:
    """Return the gate, None if it is unknown or has no common positive scale."""
    gate = parse(header.model.gate)
    return None if gate is None or gate.scale is None or gate.scale <= 0 else gate


def _of_two(margin: Floats, experts: int) -> Floats:
    """Return the least entropy over ln E for a margin: two values that sum to 1."""
    shares = np.stack([(1 + margin) / 2, (1 - margin) / 2], -1)
    return _entropy(shares, experts)


def _of_one_above(margin: Floats, experts: int) -> Floats:
    """Return the largest entropy over ln E for a margin: one value above E − 1 equal values."""
    other = (1 - margin) / experts
    first = other + margin
    return _entropy(first[..., None], experts) + (experts - 1) * _entropy(other[..., None], experts)


def _entropy(shares: Floats, experts: int) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(shares > 0, shares * np.log(shares), shares * 0.0)
    result: Floats = -terms.sum(-1) / np.log(experts)
    return result
