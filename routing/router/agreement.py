"""Whether two runs over the same tokens route them alike: row by row, a row being one token in one layer.

Shapes: `n` tokens, `L` MoE layers, `E` experts, `k` experts per token.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from moe_watch.routing.arrays import ABSENT, Flags, Floats, Ints
from moe_watch.routing.usage.counts import jensen_shannon_distance, shares

ROUNDING = 1e-9
"""Weights are multiples of a unit: what exceeds one by less than this is that one."""


@dataclass(frozen=True, slots=True)
class RoutingRows:
    """The routing of successive tokens, as one run recorded it."""

    experts: Ints
    """`[n, L, k]`, by router probability descending; `ABSENT` in rows that were not computed."""
    weights: Floats
    """`[n, L, k]`; NaN where they were not recorded."""
    margin: Floats
    """`[n, L]`, first minus second router probability; NaN where it was not recorded."""


@dataclass(frozen=True, slots=True)
class LargestDifference:
    """Where two runs weigh an expert most differently, among rows with the same experts."""

    weight: float
    i: int
    """Index of the token in the run."""
    layer: int
    """Position among the MoE layers."""


class Agreement:
    """How often two runs agree, per layer `[L]`; fed both runs' rows of the same tokens.

    A row counts only if both runs computed it. A *tie* is a row in which they differ although each one's recorded
    numbers are the same within one unit of the recording: it cannot tell which expert was ahead.

    Args:
        layers: L.
        experts: E.
        k: experts per token of each layer `[L]`.
        weight_unit: the larger one of the two recordings' units of weights.
        margin_unit: the same of router margins.
        ordered: both recordings hold experts by router probability, so that there is a first one.
    """

    def __init__(
        self, layers: int, experts: int, k: Ints, weight_unit: float, margin_unit: float, *, ordered: bool = True
    ) -> None:
        self.k = k
        """[L]"""
        self.width = int(k.max(initial=1))
        self.ordered = ordered
        """Otherwise top-1 and order are not known, and what is counted of them means nothing."""
        self.weight_unit = weight_unit
        self.margin_unit = margin_unit
        self.tokens = 0
        self.rows, self.only_a, self.only_b = (np.zeros(layers, np.int64) for _ in range(3))
        """Rows that both computed, and those that only one of them did."""
        self.sets, self.top_1, self.order = (np.zeros(layers, np.int64) for _ in range(3))
        """Rows with the same experts, with the same first one, with the same ones in the same order."""
        self.set_ties, self.top_1_ties, self.order_ties = (np.zeros(layers, np.int64) for _ in range(3))
        """Rows that differ by a tie; an order that differs is counted where the experts are the same."""
        self.weighed: Ints = np.zeros(layers, np.int64)
        """Rows whose weights both recorded: only there a tie of sets or of order can be found."""
        self.kept: Ints = np.zeros(layers, np.int64)
        """Experts that both selected, summed over rows."""
        self.rank_of_top_1: Ints = np.zeros((layers, self.width + 1), np.int64)
        """Rows by the rank that the second run gives the first one's top-1; the last column: not selected."""
        self.counts_a, self.counts_b = (np.zeros((layers, experts), np.int64) for _ in range(2))
        """Selections in rows that both computed `[L, E]`."""
        self.difference: Floats = np.full(layers, np.nan)
        """Largest difference of weights among rows with the same experts; NaN where there is none."""
        self.largest: LargestDifference | None = None

    def add(self, a: RoutingRows, b: RoutingRows) -> None:
        """Take in the next tokens, the same of both runs."""
        in_a, in_b = a.experts[..., 0] != ABSENT, b.experts[..., 0] != ABSENT
        both = in_a & in_b
        there = (a.experts != ABSENT) & both[..., None]
        same = (a.experts[..., :, None] == b.experts[..., None, :]) & there[..., None]
        a, b = _without_gaps(a), _without_gaps(b)
        self.rows += both.sum(0)
        self.only_a += (in_a & ~in_b).sum(0)
        self.only_b += (in_b & ~in_a).sum(0)
        self.kept += same.sum((0, 2, 3))
        self._add_usage(a, b, both)
        self._add_sets(a, b, both, same)
        self._add_top_1(a, b, both, same)
        self.tokens += len(both)

    @property
    def usage_distance(self) -> Floats:
        """Jensen–Shannon distance of usage over the rows that both computed `[L]`; NaN without rows."""
        return jensen_shannon_distance(shares(self.counts_a), shares(self.counts_b))

    @property
    def usage_correlation(self) -> Floats:
        """Spearman's rank correlation of how often each expert is used `[L]`; NaN where one run uses all alike."""
        return rank_correlation(self.counts_a, self.counts_b)

    @property
    def choices(self) -> Ints:
        """Selections in rows that both computed `[L]`."""
        return self.rows * self.k

    def _add_usage(self, a: RoutingRows, b: RoutingRows, both: Flags) -> None:
        layer = np.broadcast_to(np.arange(both.shape[1])[:, None], a.experts.shape[1:])
        for counts, rows in ((self.counts_a, a), (self.counts_b, b)):
            there = (rows.experts != ABSENT) & both[..., None]
            np.add.at(counts, (np.broadcast_to(layer, rows.experts.shape)[there], rows.experts[there]), 1)

    def _add_sets(self, a: RoutingRows, b: RoutingRows, both: Flags, same: Flags) -> None:
        step = self.weight_unit * (1 + ROUNDING)
        sets = both & (same.sum((-2, -1)) == self.k)
        order = sets & (a.experts == b.experts).all(-1)
        tied = _set_is_tied(a.weights, b.weights, same, self.k, step)
        set_is_tied = np.where(self.k == 1, self._is_even(a, b), tied)
        self.sets += sets.sum(0)
        self.order += order.sum(0)
        self.weighed += (both & np.isfinite(a.weights + b.weights).all(-1)).sum(0)
        self.set_ties += (both & ~sets & set_is_tied).sum(0)
        self.order_ties += (sets & ~order & _order_is_tied(a.weights, b.weights, same, step)).sum(0)
        self._add_differences(sets, _of_partner(b.weights, same) - a.weights)

    def _add_top_1(self, a: RoutingRows, b: RoutingRows, both: Flags, same: Flags) -> None:
        first = same[:, :, 0, :]
        rank = np.where(first.any(-1), first.argmax(-1), self.width)
        for column in range(self.width + 1):
            self.rank_of_top_1[:, column] += (both & (rank == column)).sum(0)
        self.top_1 += (both & (rank == 0)).sum(0)
        self.top_1_ties += (both & (rank != 0) & self._is_even(a, b)).sum(0)

    def _is_even(self, a: RoutingRows, b: RoutingRows) -> Flags:
        """Rows in which both runs have their first two experts within one unit of each other."""
        step = self.margin_unit * (1 + ROUNDING)
        even: Flags = (a.margin <= step) & (b.margin <= step)
        return even

    def _add_differences(self, sets: Flags, differences: Floats) -> None:
        """Take in differences of the weights of the same expert `[n, L, k]`."""
        known = sets & np.isfinite(differences).all(-1)
        if not known.any():
            return
        found = np.where(known, np.abs(differences).max(-1), -1.0)
        best = found.max(0)
        self.difference = np.fmax(self.difference, np.where(best < 0, np.nan, best))
        i, layer = (int(at) for at in np.unravel_index(found.argmax(), found.shape))
        if self.largest is None or found[i, layer] > self.largest.weight:
            self.largest = LargestDifference(float(found[i, layer]), self.tokens + i, layer)


def rank_correlation(a: Ints, b: Ints) -> Floats:
    """Spearman's rank correlation over the last axis, ties at their mean rank; NaN where one side is constant."""
    ranks_a, ranks_b = mean_ranks(a), mean_ranks(b)
    ranks_a -= ranks_a.mean(-1, keepdims=True)
    ranks_b -= ranks_b.mean(-1, keepdims=True)
    spread = (ranks_a**2).sum(-1) * (ranks_b**2).sum(-1)
    with np.errstate(invalid="ignore"):
        result: Floats = (ranks_a * ranks_b).sum(-1) / np.sqrt(spread)
    return result


def mean_ranks(values: Ints | Floats) -> Floats:
    """Ranks from 1 on over the last axis, ascending; equal values share the mean of theirs."""
    below = (values[..., None, :] < values[..., :, None]).sum(-1)
    equal = (values[..., None, :] == values[..., :, None]).sum(-1)
    ranks: Floats = below + (equal + 1) / 2
    return ranks


def _without_gaps(rows: RoutingRows) -> RoutingRows:
    """Rows with a weight of 0 behind the experts of layers that select fewer than others."""
    behind = (rows.experts == ABSENT) & (rows.experts[..., :1] != ABSENT)
    return replace(rows, weights=np.where(behind, 0.0, rows.weights)) if behind.any() else rows


def _of_partner(weights: Floats, same: Flags) -> Floats:
    """The second run's weight of each expert that the first one selected `[n, L, k]`; 0 if it did not select it."""
    found: Floats = np.where(same, weights[..., None, :], 0.0).sum(-1)
    return found


def _order_is_tied(a: Floats, b: Floats, same: Flags, step: float) -> Flags:
    """The same experts: those that changed places have the same weight, in either run."""
    b_at_a, a_at_b = _of_partner(b, same), _of_partner(a, same.swapaxes(-2, -1))
    tied: Flags = np.maximum(np.abs(a_at_b - a), np.abs(b_at_a - b)).max(-1) <= step
    return tied


def _set_is_tied(a: Floats, b: Floats, same: Flags, k: Ints, step: float) -> Flags:
    """All but one expert are the same; they have the same weights, and so have the two that took each other's place."""
    in_both_a, in_both_b = same.any(-1), same.any(-2)
    one_differs = in_both_a.sum(-1) == k - 1
    kept = np.where(in_both_a, np.abs(_of_partner(b, same) - a), 0.0).max(-1) <= step
    gone, come = np.where(in_both_a, 0.0, a).sum(-1), np.where(in_both_b, 0.0, b).sum(-1)
    tied: Flags = one_differs & kept & (np.abs(gone - come) <= step)
    return tied
