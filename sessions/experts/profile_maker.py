"""Profile of a model's experts from their usage: the file's quantities, and the stability of the rankings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import TypeVar

import numpy as np

from moe_watch.routing.arrays import Floats, Ints
from moe_watch.routing.errors import UserError
from moe_watch.routing.experts.rankings import RANKINGS, Ranking
from moe_watch.routing.experts.stability import (
    FEWEST_BLOCKS,
    RESAMPLES,
    SPLITS,
    kept_overlap,
    rank_stability,
    ranking_correlation,
)
from moe_watch.routing.experts.sums import ExpertSums, total
from moe_watch.routing.header import experts_per_token
from moe_watch.sessions.experts.usage_groups import ObservedModel, ObservedUsage, UsageGroup
from moe_watch.sessions.results.profile import (
    ExpertProfile,
    GroupAgreement,
    GroupPair,
    ProfileGroup,
    ProfileStability,
    RankingStability,
)
from moe_watch.sessions.text import plural, whole_text
from moe_watch.sessions.version import version

T = TypeVar("T")

DIGITS = 4
"""Decimal places of shares and correlations: a resample or two make no difference beyond it."""
UNKNOWN_LAYERS = "the files do not state the number of all layers"
UNKNOWN_FINGERPRINT = "the files do not identify the model"
UNKNOWN_GATE = "the files do not name the gate"


def make_profile(usage: ObservedUsage, keeps: Sequence[int] = ()) -> ExpertProfile:
    """Return the profile of observed usage.

    Args:
        usage: usage of the experts in groups of texts.
        keeps: numbers of kept experts whose stability is estimated; empty for all.

    Raises:
        UserError: counts of a layer are not rows × experts per token, or a number of kept experts is impossible.
    """
    model = usage.model
    for keep in keeps:
        if not 1 <= keep <= model.experts:
            raise UserError(f"--keep is {keep}", advice=f"use 1 to {model.experts}, the experts of a layer")
    sums = total(block for group in usage.groups for block in group.blocks)
    check_whole(sums, model)
    stability, unstable = _stability(usage, keeps)
    facts = {
        "num_hidden_layers": (model.hidden_layers, UNKNOWN_LAYERS),
        "fingerprint": (model.fingerprint, UNKNOWN_FINGERPRINT),
        "gate": (model.gate, UNKNOWN_GATE),
        "stability": (stability, unstable),
    }
    layers = model.layers
    return ExpertProfile(
        model=model.name,
        calibration_corpus=whole_text(usage.corpus),
        calibration_examples=sum(group.examples for group in usage.groups),
        calibration_tokens=sum(group.tokens for group in usage.groups),
        num_hidden_layers=model.hidden_layers,
        num_experts=model.experts,
        num_experts_per_tok=experts_per_token(model.k),
        activation_counts=_by_layer(layers, sums.counts.tolist()),
        tool=f"moe-watch {version()}",
        weight_mass=_floats_by_layer(layers, sums.weights),
        saliency=_nullable_by_layer(layers, sums.saliency),
        saliency_mass=_floats_by_layer(layers, sums.norms),
        router_entropy=None
        if sums.mean_entropy is None
        else {str(layer): _number(value) for layer, value in zip(layers, sums.mean_entropy, strict=True)},
        rows=_by_layer(layers, sums.rows.tolist()),
        never_routed=_by_layer(layers, [np.flatnonzero(row == 0).tolist() for row in sums.counts]),
        expert_ids=None if model.expert_ids is None else _by_layer(layers, model.expert_ids),
        fingerprint=model.fingerprint,
        gate=model.gate,
        engine=model.engine,
        window=usage.window,
        corpus_sha256=usage.corpus_sha256,
        groups=[_group(group, layers) for group in usage.groups] if len(usage.groups) > 1 else [],
        stability=stability,
        warnings=[whole_text(each) for each in usage.warnings],
        unavailable={**usage.absent, **{key: reason for key, (value, reason) in facts.items() if value is None}},
    )


def check_whole(sums: ExpertSums, model: ObservedModel) -> None:
    """Check that the counts of every layer sum to rows × experts per token.

    Raises:
        UserError: they do not.
    """
    for layer, rows, counted, k in zip(
        model.layers, sums.rows.tolist(), sums.counts.sum(1).tolist(), model.k, strict=True
    ):
        if counted != rows * k:
            what = f"counts of layer {layer} sum to {counted:,}, not to rows × experts per token ({rows:,} × {k})"
            raise UserError(what, advice="check the files with `moe-watch verify`")


def _by_layer(layers: Sequence[int], values: Iterable[T]) -> dict[str, T]:
    return {str(layer): value for layer, value in zip(layers, values, strict=True)}


def _floats_by_layer(layers: Sequence[int], table: Floats | None) -> dict[str, list[float]] | None:
    return None if table is None else _by_layer(layers, table.tolist())


def _nullable_by_layer(layers: Sequence[int], table: Floats | None) -> dict[str, list[float | None]] | None:
    return None if table is None else _by_layer(layers, [[_number(value) for value in row] for row in table])


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _group(group: UsageGroup, layers: Sequence[int]) -> ProfileGroup:
    sums = total(group.blocks)
    return ProfileGroup(
        name=whole_text(group.name),
        examples=group.examples,
        tokens=group.tokens,
        activation_counts=_by_layer(layers, sums.counts.tolist()),
        weight_mass=_floats_by_layer(layers, sums.weights),
        saliency_mass=_floats_by_layer(layers, sums.norms),
    )


def _stability(usage: ObservedUsage, keeps: Sequence[int]) -> tuple[ProfileStability | None, str]:
    """Return the stability of all rankings; None with the reason if there is none."""
    blocks = [block for group in usage.groups for block in group.blocks]
    chosen = list(keeps) or list(range(1, usage.model.experts))
    layers = usage.model.layers
    within: dict[str, RankingStability] = {}
    if usage.block is not None:
        for by in RANKINGS:
            if (found := rank_stability(blocks, by, chosen)) is not None:
                within[by] = RankingStability(
                    same_set=_shares(layers, found.same_set),
                    overlap=_shares(layers, found.overlap),
                    half_overlap=_shares(layers, found.half_overlap),
                    half_correlation=_correlations(layers, found.half_correlation),
                )
    across = _across(usage.groups, layers, chosen) if len(usage.groups) > 1 else None
    if not within and across is None:
        if usage.block is None:
            return None, "the files have only sums of counts, which cannot be resampled"
        few = plural(len(blocks), "block" if usage.block == "tokens" else usage.block)
        return None, f"{few} cannot be resampled: {FEWEST_BLOCKS} are needed"
    stability = ProfileStability(
        block=usage.block,
        blocks=len(blocks),
        resamples=RESAMPLES,
        splits=SPLITS,
        keep=chosen,
        chance=[round(keep / usage.model.experts, DIGITS) for keep in chosen],
        within=within,
        across=across,
        pairs=_pairs(usage.groups),
    )
    return stability, ""


def _rankings(groups: Sequence[UsageGroup]) -> Mapping[Ranking, list[Floats]]:
    """Return each quantity `[L, E]` that all groups have, for each group."""
    sums = [total(group.blocks) for group in groups]
    found: dict[Ranking, list[Floats]] = {}
    for by in RANKINGS:
        values = [value for each in sums if (value := each.ranking(by)) is not None]
        if len(values) == len(sums):
            found[by] = values
    return found


def _across(groups: Sequence[UsageGroup], layers: Sequence[int], keeps: Sequence[int]) -> dict[str, GroupAgreement]:
    found: dict[str, GroupAgreement] = {}
    for by, values in _rankings(groups).items():
        pairs = list(combinations(values, 2))
        found[by] = GroupAgreement(
            overlap=_shares(layers, np.mean([kept_overlap(a, b, keeps) for a, b in pairs], axis=0)),
            correlation=_correlations(layers, _mean_known([ranking_correlation(a, b) for a, b in pairs])),
        )
    return found


def _pairs(groups: Sequence[UsageGroup]) -> list[GroupPair]:
    rankings = _rankings(groups) if len(groups) > 1 else {}
    return [
        GroupPair(
            a=whole_text(groups[a].name),
            b=whole_text(groups[b].name),
            correlation={by: _mean_correlation(values[a], values[b]) for by, values in rankings.items()},
        )
        for a, b in combinations(range(len(groups)), 2)
    ]


def _mean_correlation(a: Floats, b: Floats) -> float | None:
    """Return the mean over layers of Spearman's ρ; None where no layer has one."""
    return _rounded(float(_mean_known(ranking_correlation(a, b))))


def _mean_known(values: Floats | Sequence[Floats]) -> Floats:
    """Return the mean over the first axis of the values that are numbers; NaN where there are none."""
    table = np.asarray(values)
    known = ~np.isnan(table)
    number = known.sum(0)
    mean: Floats = np.where(known, table, 0.0).sum(0) / np.where(number, number, np.nan)
    return mean


def _shares(layers: Sequence[int], table: Floats | Ints) -> dict[str, list[float]]:
    return _by_layer(layers, np.round(table, DIGITS).tolist())


def _correlations(layers: Sequence[int], values: Floats) -> dict[str, float | None]:
    return _by_layer(layers, [_rounded(value) for value in values.tolist()])


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, DIGITS)
