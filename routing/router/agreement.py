"""Agreement of two runs over the same tokens, row by row; a row is one token in one layer.

Shapes: `n` tokens, `L` MoE layers, `E` experts, `k` experts per token.

References: lin-1991, endres-schindelin-2003, spearman-1904, wilcoxon-1945.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from moe_watch.routing.arrays import ABSENT, Flags, Floats, Ints
from moe_watch.routing.usage.counts import jensen_shannon_distance, shares

ROUNDING = 1e-9
"""Weights are multiples of a unit: a difference that exceeds one unit by less than this share is one unit."""


@dataclass(frozen=True, slots=True)
class RoutingRows:
    """Routing of successive tokens, as one run recorded it."""

    experts: Ints
    """`[n, L, k]`, by router probability descending; `ABSENT` in rows that were not computed."""
    weights: Floats
    """`[n, L, k]`; NaN where they were not recorded."""
    margin: Floats
    """`[n, L]`, first minus second router probability; NaN where it was not recorded."""


@dataclass(frozen=True, slots=True)
class LargestDifference:
    """Largest difference of an expert's weight between the runs, among rows with equal expert sets."""

    weight: float
    i: int
    """Index of the token in the run."""
    layer: int
    """Position among the MoE layers."""


@dataclass(frozen=True, slots=True)
class RecordedRows:
    """Format of the rows in the two recordings."""

    k: Ints
    """[L] experts per token."""
    ordered: bool
    """True if both recordings order experts by router probability; otherwise top-1 and order are unknown, and their
    counts mean nothing."""
    weight_unit: float
    margin_unit: float

    @property
    def width(self) -> int:
        """The largest k; 1 in a model without MoE layers."""
        return int(self.k.max(initial=1))

    def is_even(self, a: RoutingRows, b: RoutingRows) -> Flags:
        """Return True for rows `[n, L]` in which both runs have a router margin of at most one unit."""
        step = self.margin_unit * (1 + ROUNDING)
        even: Flags = (a.margin <= step) & (b.margin <= step)
        return even


@dataclass(slots=True)
class UnmatchedRows:
    """Rows that only one run computed, per layer `[L]`."""

    only_a: Ints
    only_b: Ints


@dataclass(slots=True)
class Ties:
    """Rows that differ by a tie, per layer `[L]`; an order is counted where the expert sets are equal."""

    sets: Ints
    top_1: Ints
    order: Ints


@dataclass(slots=True)
class UsageAgreement:
    """Selections in rows that both runs computed, `[L, E]` for each run."""

    a: Ints
    b: Ints


class Agreement:
    """Counts of rows in which two runs agree, per layer `[L]`; it is fed the rows of both runs for the same tokens.

    A row counts only if both runs computed it. A *tie* is a row in which the runs differ although the recorded numbers
    of each run are equal within one unit of the recording: the recording cannot show which expert was ahead.

    Args:
        layers: L.
        experts: E.
        k: experts per token of each layer `[L]`.
        weight_unit: the larger of the two recordings' units of weights.
        margin_unit: the larger of the two recordings' units of router margins.
        ordered: both recordings order experts by router probability, so that there is a top-1 expert.
    """

    def __init__(
        self, layers: int, experts: int, k: Ints, weight_unit: float, margin_unit: float, *, ordered: bool = True
    ) -> None:
        self.recorded = RecordedRows(k, ordered, weight_unit, margin_unit)
        self.tokens = 0
        self.rows: Ints = np.zeros(layers, np.int64)
        """Rows that both runs computed."""
        self.unmatched = UnmatchedRows(*(np.zeros(layers, np.int64) for _ in range(2)))
        self.sets, self.top_1, self.order = (np.zeros(layers, np.int64) for _ in range(3))
        """Rows with equal expert sets, with the same top-1 expert, with equal sets in the same order."""
        self.ties = Ties(*(np.zeros(layers, np.int64) for _ in range(3)))
        self.weighed: Ints = np.zeros(layers, np.int64)
        """Rows with weights in both recordings: only these can show a tie of sets or of order."""
        self.kept: Ints = np.zeros(layers, np.int64)
        """Experts that both runs selected, summed over rows."""
        self.rank_of_top_1: Ints = np.zeros((layers, self.recorded.width + 1), np.int64)
        """Rows by the rank that the second run gives the first run's top-1 expert; last column: not selected."""
        self.usage = UsageAgreement(*(np.zeros((layers, experts), np.int64) for _ in range(2)))
        self.difference: Floats = np.full(layers, np.nan)
        """Largest difference of weights among rows with equal expert sets; NaN where there is no such row."""
        self.largest: LargestDifference | None = None

    def feed(self, a: RoutingRows, b: RoutingRows) -> None:
        """Compare the next tokens, the same tokens of both runs."""
        in_a, in_b = a.experts[..., 0] != ABSENT, b.experts[..., 0] != ABSENT
        both = in_a & in_b
        present = (a.experts != ABSENT) & both[..., None]
        same = (a.experts[..., :, None] == b.experts[..., None, :]) & present[..., None]
        a, b = _without_gaps(a), _without_gaps(b)
        self.rows += both.sum(0)
        self.unmatched.only_a += (in_a & ~in_b).sum(0)
        self.unmatched.only_b += (in_b & ~in_a).sum(0)
        self.kept += same.sum((0, 2, 3))
        self._count_usage(a, b, both)
        self._compare_sets(a, b, both, same)
        self._compare_top_1(a, b, both, same)
        self.tokens += len(both)

    @property
    def ordered(self) -> bool:
        """True if both recordings order experts by router probability."""
        return self.recorded.ordered

    @property
    def usage_distance(self) -> Floats:
        """Jensen–Shannon distance of usage over the rows that both runs computed `[L]`; NaN without rows.

        References: lin-1991, endres-schindelin-2003.
        """
        return jensen_shannon_distance(shares(self.usage.a), shares(self.usage.b))

    @property
    def usage_correlation(self) -> Floats:
        """Spearman's rank correlation of the selections per expert `[L]`; NaN where one run uses all experts equally.

        References: spearman-1904.
        """
        return rank_correlation(self.usage.a, self.usage.b)

    @property
    def choices(self) -> Ints:
        """Selections in rows that both runs computed `[L]`."""
        return self.rows * self.recorded.k

    def _count_usage(self, a: RoutingRows, b: RoutingRows, both: Flags) -> None:
        layer = np.broadcast_to(np.arange(both.shape[1])[:, None], a.experts.shape[1:])
        for counts, rows in ((self.usage.a, a), (self.usage.b, b)):
            present = (rows.experts != ABSENT) & both[..., None]
            np.add.at(counts, (np.broadcast_to(layer, rows.experts.shape)[present], rows.experts[present]), 1)

    def _compare_sets(self, a: RoutingRows, b: RoutingRows, both: Flags, same: Flags) -> None:
        k, step = self.recorded.k, self.recorded.weight_unit * (1 + ROUNDING)
        sets = both & (same.sum((-2, -1)) == k)
        order = sets & (a.experts == b.experts).all(-1)
        tied = _set_is_tied(a.weights, b.weights, same, k, step)
        set_is_tied = np.where(k == 1, self.recorded.is_even(a, b), tied)
        self.sets += sets.sum(0)
        self.order += order.sum(0)
        self.weighed += (both & np.isfinite(a.weights + b.weights).all(-1)).sum(0)
        self.ties.sets += (both & ~sets & set_is_tied).sum(0)
        self.ties.order += (sets & ~order & _order_is_tied(a.weights, b.weights, same, step)).sum(0)
        self._compare_weights(sets, _of_partner(b.weights, same) - a.weights)

    def _compare_top_1(self, a: RoutingRows, b: RoutingRows, both: Flags, same: Flags) -> None:
        first, width = same[:, :, 0, :], self.recorded.width
        rank = np.where(first.any(-1), first.argmax(-1), width)
        for column in range(width + 1):
            self.rank_of_top_1[:, column] += (both & (rank == column)).sum(0)
        self.top_1 += (both & (rank == 0)).sum(0)
        self.ties.top_1 += (both & (rank != 0) & self.recorded.is_even(a, b)).sum(0)

    def _compare_weights(self, sets: Flags, differences: Floats) -> None:
        """Record the largest difference of an expert's weights; `differences` is `[n, L, k]`."""
        known = sets & np.isfinite(differences).all(-1)
        if not known.any():
            return
        found = np.where(known, np.abs(differences).max(-1), -1.0)
        best = found.max(0)
        self.difference = np.fmax(self.difference, np.where(best < 0, np.nan, best))
        i, layer = (int(at) for at in np.unravel_index(found.argmax(), found.shape))
        if self.largest is None or found[i, layer] > self.largest.weight:
            self.largest = LargestDifference(float(found[i, layer]), self.tokens + i, layer)


def rank_correlation(a: Ints | Floats, b: Ints | Floats) -> Floats:
    """Return Spearman's rank correlation over the last axis, ties at their mean rank; NaN where one side is constant.

    References: spearman-1904.
    """
    ranks_a, ranks_b = mean_ranks(a), mean_ranks(b)
    ranks_a -= ranks_a.mean(-1, keepdims=True)
    ranks_b -= ranks_b.mean(-1, keepdims=True)
    spread = (ranks_a**2).sum(-1) * (ranks_b**2).sum(-1)
    with np.errstate(invalid="ignore"):
        result: Floats = (ranks_a * ranks_b).sum(-1) / np.sqrt(spread)
    return result


def mean_ranks(values: Ints | Floats) -> Floats:
    """Return ranks over the last axis, ascending from 1; equal values share their mean rank.

    References: wilcoxon-1945.
    """
    order = np.argsort(values, -1, kind="stable")
    ordered = np.take_along_axis(values, order, -1)
    begins = np.ones(values.shape, bool)
    begins[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    place = np.broadcast_to(np.arange(1, values.shape[-1] + 1), values.shape)
    ends = np.concatenate([begins[..., 1:], np.ones((*values.shape[:-1], 1), bool)], -1)
    first = np.maximum.accumulate(np.where(begins, place, 0), -1)
    last = np.flip(np.minimum.accumulate(np.flip(np.where(ends, place, values.shape[-1]), -1), -1), -1)
    ranks = np.empty(values.shape)
    np.put_along_axis(ranks, order, (first + last) / 2, -1)
    return ranks


def _without_gaps(rows: RoutingRows) -> RoutingRows:
    """Return rows with padding of weight 0 in layers that select fewer experts than others."""
    behind = (rows.experts == ABSENT) & (rows.experts[..., :1] != ABSENT)
    return replace(rows, weights=np.where(behind, 0.0, rows.weights)) if behind.any() else rows


def _of_partner(weights: Floats, same: Flags) -> Floats:
    """Return the second run's weight of each expert that the first run selected `[n, L, k]`; 0 if not selected."""
    found: Floats = np.where(same, weights[..., None, :], 0.0).sum(-1)
    return found


def _order_is_tied(a: Floats, b: Floats, same: Flags, step: float) -> Flags:
    """Return True for rows in which the experts that changed places have equal weights in both runs.

    Both runs selected the same experts in these rows.
    """
    b_at_a, a_at_b = _of_partner(b, same), _of_partner(a, same.swapaxes(-2, -1))
    tied: Flags = np.maximum(np.abs(a_at_b - a), np.abs(b_at_a - b)).max(-1) <= step
    return tied


def _set_is_tied(a: Floats, b: Floats, same: Flags, k: Ints, step: float) -> Flags:
    """Return True for rows in which a single expert differs, and all weights are equal in both runs.

    The expert that only the first run selected has the weight of the expert that replaces it in the second run.
    """
    in_both_a, in_both_b = same.any(-1), same.any(-2)
    one_differs = in_both_a.sum(-1) == k - 1
    kept = np.where(in_both_a, np.abs(_of_partner(b, same) - a), 0.0).max(-1) <= step
    gone, come = np.where(in_both_a, 0.0, a).sum(-1), np.where(in_both_b, 0.0, b).sum(-1)
    tied: Flags = one_differs & kept & (np.abs(gone - come) <= step)
    return tied
