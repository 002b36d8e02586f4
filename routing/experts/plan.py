"""Pruning plan: the experts that a ranking keeps in each layer, and the share that leaves with the others."""

from __future__ import annotations

import numpy as np

from moe_watch.routing.arrays import Floats, Ints
from moe_watch.routing.errors import UserError
from moe_watch.routing.router.masks import FEWEST_IN_GROUP, ExpertGroups


def possible_keeps(experts: int, k: int, groups: ExpertGroups | None = None) -> range:
    """Return the numbers of experts that a layer of `experts` can keep, ascending, `experts` itself included.

    At least k. With groups, a multiple of their number, at least `FEWEST_IN_GROUP` in each, and enough that the
    selected groups hold k.
    """
    if groups is None or groups.count <= 1:
        return range(max(1, k), experts + 1)
    in_each = max(FEWEST_IN_GROUP, -(-k // groups.used))
    return range(in_each * groups.count, experts + 1, groups.count)


def kept_experts(ranking: Floats, keep: int, groups: ExpertGroups | None = None) -> Ints:
    """Return the experts that remain, `[L, keep]`, ascending in each layer.

    Each layer keeps the experts that rank highest; with groups, the same number of every group. Of equal ranks, the
    lower index stays.

    Args:
        ranking: `[L, E]`, higher is kept; NaN ranks below every number.
        keep: number of experts that each layer keeps.
        groups: groups of the router.

    Raises:
        UserError: a layer has fewer experts, or the groups cannot keep equal numbers.
    """
    layers, experts = ranking.shape
    count = 1 if groups is None else groups.count
    if not 1 <= keep <= experts:
        raise UserError(f"{keep} experts cannot be kept of {experts}", advice=f"keep 1 to {experts}")
    if keep % count:
        raise UserError(
            f"{keep} experts cannot be shared evenly by {count} groups", advice=f"keep a multiple of {count}"
        )
    size = experts // count
    by_group = np.where(np.isnan(ranking), -np.inf, ranking).reshape(layers, count, size)
    order = np.argsort(-by_group, axis=-1, kind="stable")[..., : keep // count]
    kept: Ints = np.sort(order, axis=-1) + np.arange(count)[:, None] * size
    return kept.reshape(layers, keep)


def dropped_experts(kept: Ints, experts: int) -> Ints:
    """Return the experts that leave, `[L, experts − keep]`, ascending in each layer."""
    leaving = np.ones((len(kept), experts), np.bool_)
    np.put_along_axis(leaving, kept, False, axis=1)
    return np.nonzero(leaving)[1].reshape(len(kept), -1)


def lost(quantity: Floats | Ints, kept: Ints) -> Floats:
    """Return the share of each layer's quantity that leaves, `[L]`; NaN where a layer has none.

    Args:
        quantity: counts or weight mass `[L, E]`.
        kept: experts that remain `[L, keep]`.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        share: Floats = _leaving(quantity, kept).sum(1) / quantity.sum(1)
    return share


def lost_overall(quantity: Floats | Ints, kept: Ints) -> float:
    """Return the share of the quantity of all layers together that leaves; NaN if there is none."""
    total = float(quantity.sum())
    return float(_leaving(quantity, kept).sum()) / total if total else float("nan")


def _leaving(quantity: Floats | Ints, kept: Ints) -> Floats:
    """Return the quantity of the experts that leave `[L, E]`, 0 at the ones kept."""
    leaving = quantity.astype(np.float64)
    np.put_along_axis(leaving, kept, 0.0, axis=1)
    return leaving
