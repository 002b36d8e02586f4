"""Pruning of a model by a ranking of its experts: the plan, its report, and the new file or folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from msgspec import structs

from moe_watch.backends.prune_record import PruneStep
from moe_watch.backends.pruning.experts_of_model import PrunableModel
from moe_watch.backends.pruning.gguf import PrunableGguf
from moe_watch.backends.pruning.new_output import check_output
from moe_watch.backends.pruning.pruner import prunable_location, prune_model, read_prunable_model
from moe_watch.backends.pruning.safetensors import PrunableFolder
from moe_watch.routing.arrays import Floats, Ints
from moe_watch.routing.errors import UserError
from moe_watch.routing.experts.plan import dropped_experts, kept_experts, lost, lost_overall, possible_keeps
from moe_watch.routing.results import finite
from moe_watch.routing.router.masks import FEWEST_IN_GROUP
from moe_watch.sessions.experts.expert_rankings import SOURCES, RankedExperts, random_ranking, read_ranking
from moe_watch.sessions.results.pruning import PruneBy, PrunedLayer, PruneReport
from moe_watch.sessions.text import plural, whole_text


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneOrder:
    """Pruning that the user asks for."""

    model: str
    output: Path
    keep: int
    by: PruneBy
    ranking: Path | None = None
    """File with the ranking; for a random one, with the usage that leaves, or None."""
    seed: int = 0
    same_weights: bool = False
    """Accept a ranking of a model with another name, as another form of the same weights."""


@dataclass(frozen=True, slots=True)
class PlannedPruning:
    """Pruning that was checked, and its report before anything is written."""

    order: PruneOrder
    model: PrunableGguf | PrunableFolder
    ranking: RankedExperts
    kept: Ints
    """`[L, keep]`"""
    report: PruneReport


def plan_pruning(order: PruneOrder) -> PlannedPruning:
    """Read the model and the ranking, and check the pruning. Nothing is written.

    Raises:
        UserError: the model cannot be pruned, the number of experts is out of range, the ranking cannot be used, or
            the output exists or does not fit on its disk.
    """
    path = order.ranking
    if order.by != "random" and path is None:
        raise UserError(f"--by {order.by} needs --from", advice=f"give {SOURCES[order.by]}, or use --by random")
    model = read_prunable_model(prunable_location(order.model, order.output))
    _check_keep(order.keep, model)
    check_output(order.output, model.bytes_with(order.keep))
    if order.by == "random" or path is None:
        ranking = random_ranking(model, order.seed, path, same_weights=order.same_weights)
    else:
        ranking = read_ranking(path, order.by, model, same_weights=order.same_weights)
    kept = kept_experts(ranking.values, order.keep, model.groups)
    return PlannedPruning(order, model, ranking, kept, _report(order, model, ranking, kept))


def write_planned(planned: PlannedPruning, progress: Callable[[int, int], None]) -> PruneReport:
    """Write the new model, and return the report.

    Args:
        planned: the pruning.
        progress: receives the bytes that were read, and their total.

    Raises:
        UserError: it cannot be written. Nothing is left behind.
    """
    order, model, ranking = planned.order, planned.model, planned.ranking
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress(done, model.bytes)

    step = PruneStep(
        by=order.by,
        keep=order.keep,
        ranking=None if ranking.path is None else whole_text(ranking.path.name),
        ranking_sha256=ranking.sha256,
        seed=ranking.seed,
        source=whole_text(model.name),
        source_sha256={},
    )
    kept = {layer: row.tolist() for layer, row in zip(model.layers, planned.kept, strict=True)}
    prune_model(model, kept, step, order.output, advance)
    files = [order.output] if order.output.is_file() else order.output.rglob("*")
    size = sum(path.stat().st_size for path in files if path.is_file())
    return structs.replace(planned.report, output=whole_text(str(order.output)), bytes_after=size)


def _check_keep(keep: int, model: PrunableModel) -> None:
    """Refuse a number of experts with which a router has no choice, or nothing is pruned.

    Raises:
        UserError: it is out of range.
    """
    possible = [count for count in possible_keeps(model.experts, model.chosen, model.groups) if count < model.experts]
    if keep in possible:
        return
    if model.groups is None:
        why = f"{model.name} has {model.experts} experts and selects {model.chosen} per token"
    else:
        why = (
            f"{model.name} has {model.groups.count} groups of {model.experts // model.groups.count} experts and "
            f"selects {model.chosen} of {plural(model.groups.used, 'group')}; each group keeps the same number, at "
            f"least {FEWEST_IN_GROUP}"
        )
    if not possible:
        raise UserError(f"--keep is {keep}: {why}", advice="no smaller number of experts is possible")
    step = possible[1] - possible[0] if len(possible) > 1 else 1
    steps = f", in steps of {step}" if step > 1 else ""
    allowed = f"{possible[0]} to {possible[-1]}{steps}" if len(possible) > 1 else str(possible[0])
    raise UserError(f"--keep is {keep}: {why}", advice=f"keep {allowed}")


# -- report


def _report(order: PruneOrder, model: PrunableModel, ranking: RankedExperts, kept: Ints) -> PruneReport:
    counts = None if ranking.sums is None else ranking.sums.counts
    weights = None if ranking.sums is None else ranking.sums.weights
    dropped = dropped_experts(kept, model.experts)
    lost_counts, lost_weights = _shares(counts, kept), _shares(weights, kept)
    original = model.in_whole_model({layer: row.tolist() for layer, row in zip(model.layers, kept, strict=True)})
    return PruneReport(
        keep=order.keep,
        by=order.by,
        layers=[
            PrunedLayer(
                layer=layer,
                kept=kept[at].tolist(),
                dropped=dropped[at].tolist(),
                count_lost=lost_counts[at],
                weight_lost=lost_weights[at],
                never_routed=None if counts is None else np.flatnonzero(counts[at] == 0).tolist(),
            )
            for at, layer in enumerate(model.layers)
        ],
        count_lost=None if counts is None else finite(lost_overall(counts, kept)),
        weight_lost=None if weights is None else finite(lost_overall(weights, kept)),
        model=whole_text(model.name),
        experts=model.experts,
        ranking=None if ranking.path is None else whole_text(str(ranking.path)),
        seed=ranking.seed,
        expert_ids=None if model.record is None else {str(layer): row for layer, row in original.items()},
        bytes_before=model.bytes,
        bytes_after=model.bytes_with(order.keep),
        output=None,
        warnings=[*ranking.warnings, *_warnings(model, ranking, kept, dropped)],
    )


def _shares(quantity: Ints | Floats | None, kept: Ints) -> list[float | None]:
    return [None] * len(kept) if quantity is None else [finite(share) for share in lost(quantity, kept)]


def _warnings(model: PrunableModel, ranking: RankedExperts, kept: Ints, dropped: Ints) -> list[str]:
    warnings = []
    values = np.where(np.isnan(ranking.values), -np.inf, ranking.values)
    tied = [
        layer
        for layer, row, stay, leave in zip(model.layers, values, kept, dropped, strict=True)
        if _is_tied(row, stay, leave, model)
    ]
    if tied:
        shown = ", ".join(map(str, tied[:8])) + (", …" if len(tied) > 8 else "")
        warnings.append(f"equal values in layer {shown}: of equal experts, the lower numbers stay")
    if ranking.sums is not None:
        unrouted = np.take_along_axis(ranking.sums.counts, kept, 1) == 0
        if stays := int(unrouted.sum()):
            layers = plural(int(unrouted.any(1).sum()), "layer")
            warnings.append(f"{plural(stays, 'expert')} that no token selects stay, in {layers}")
    if model.ahead:
        warnings.append(
            f"{', '.join(model.ahead)}: predicts further tokens and has no ranking; its first experts stay, so these "
            "predictions are worse"
        )
    return warnings


def _is_tied(values: Floats, kept: Ints, dropped: Ints, model: PrunableModel) -> bool:
    """Return whether an expert leaves with the same value as one that stays, in the same group."""
    size = model.experts // (1 if model.groups is None else model.groups.count)
    pairs = {(int(each) // size, float(values[each])) for each in kept}
    return any((int(each) // size, float(values[each])) in pairs for each in dropped)
