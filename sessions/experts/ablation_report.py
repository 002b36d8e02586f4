"""Result of an ablation from its records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from moe_watch.backends.scoring_messages import UsageSums
from moe_watch.routing.arrays import Floats, Ints, unpacked
from moe_watch.routing.experts.ablation import draws_for, halves, least_used, similar_expert
from moe_watch.routing.experts.rank_prediction import RankCorrelation, differences, predict, split_half
from moe_watch.routing.stats.permutation import holm
from moe_watch.routing.stats.token_blocks import BLOCK, BlockMeans, Blocks, block_means
from moe_watch.sessions.experts.ablation import Expert
from moe_watch.sessions.experts.ablation_records import AblationPlan, AblationRecords
from moe_watch.sessions.experts.given_tokens import GivenTokens
from moe_watch.sessions.results.ablation import (
    AblationControl,
    AblationControls,
    AblationReport,
    ExpertDamage,
    RankCorrelationResult,
    RankingDifference,
    RankingResult,
    ScoredText,
    SplitHalf,
    SplitHalves,
    WholeModel,
)


@dataclass(frozen=True, slots=True)
class _Usage:
    """Usage of the measured experts over all windows, [N] each; None where it was not measured."""

    tokens: Ints
    weights: Floats | None
    norms: Floats | None

    @property
    def saliency(self) -> Floats | None:
        """Mean norm per token; NaN for an expert that no token selects."""
        if self.norms is None:
            return None
        return np.where(self.tokens > 0, self.norms / np.maximum(self.tokens, 1), np.nan)


def ablation_report(
    plan: AblationPlan, tokens: GivenTokens, records: AblationRecords, chosen: Sequence[Expert]
) -> AblationReport:
    """Return the result of a finished measurement.

    Args:
        plan: the measurement.
        tokens: the evaluated tokens.
        records: all evaluations.
        chosen: the measured experts, by layer and number.
    """
    model = plan.model
    layer = np.array([expert[0] for expert in chosen], np.int64)
    delta, kl = _damages(tokens, records, chosen)
    usage = _usage(plan, records, len(tokens.windows), chosen)
    draws = draws_for(len(chosen))
    means, kl_means = block_means(delta, draws), block_means(kl)
    rankings = _rankings(usage)
    by_delta, by_kl = predict(rankings, delta, layer), predict(rankings, kl, layer)
    return AblationReport(
        tokens=tokens.predicted,
        model=model.name,
        fingerprint=model.fingerprint,
        quantization=model.quantization,
        backend=plan.backend.name,
        layers=model.layers,
        experts_per_layer=model.experts,
        experts_per_token=model.experts_per_token,
        corpus=ScoredText(kind=tokens.kind, name=tokens.name, sha256=plan.tokens, windows=len(tokens.windows)),
        window=tokens.length,
        block=BLOCK,
        draws=draws,
        experts=_experts(chosen, means, kl_means, usage),
        rank_correlations={
            name: RankingResult(delta_surprisal=_correlation(by_delta[name]), kl=_correlation(by_kl[name]))
            for name in rankings
        },
        differences=[
            RankingDifference(
                better=each.better, worse=each.worse, within_layers=each.difference, interval=each.interval
            )
            for each in differences(by_delta)
        ],
        split_half=SplitHalves(delta_surprisal=_split_half(delta, layer), kl=_split_half(kl, layer)),
        controls=_controls(chosen, delta, means, usage.tokens, layer),
        whole=_whole(tokens, records),
    )


def _damages(tokens: GivenTokens, records: AblationRecords, chosen: Sequence[Expert]) -> tuple[Blocks, Blocks]:
    sizes = tokens.block_tokens
    delta, kl = (np.empty((len(chosen), len(sizes))) for _ in range(2))
    for at, expert in enumerate(chosen):
        delta[at], kl[at] = records.sums(*expert)
    return Blocks(sizes, delta), Blocks(sizes, kl)


def _usage(plan: AblationPlan, records: AblationRecords, windows: int, chosen: Sequence[Expert]) -> _Usage:
    position = {layer: at for at, layer in enumerate(plan.model.layers)}
    layers = [position[layer] for layer, _ in chosen]
    experts = [expert for _, expert in chosen]
    found = [records.whole[at].usage for at in range(windows)]

    def summed(name: str) -> Floats | None:
        tables = [getattr(each, name) for each in found]
        return None if any(table is None for table in tables) else np.sum(tables, axis=0)[layers, experts]

    counts: Ints = np.sum([_counts(each) for each in found], axis=0)
    return _Usage(counts[layers, experts], summed("weights"), summed("norms"))


def _counts(usage: UsageSums) -> Ints:
    return np.array(usage.counts, np.int64)


def _rankings(usage: _Usage) -> dict[str, Floats]:
    """Return the rankings by name [N]; in the ranking by saliency, experts that no token selects are last."""
    saliency = usage.saliency
    found: Mapping[str, Floats | None] = {
        "count": usage.tokens.astype(np.float64),
        "weight_mass": usage.weights,
        "saliency": None if saliency is None else np.where(np.isnan(saliency), -1.0, saliency),
        "saliency_mass": usage.norms,
    }
    return {name: values for name, values in found.items() if values is not None}


def _experts(chosen: Sequence[Expert], means: BlockMeans, kl: BlockMeans, usage: _Usage) -> list[ExpertDamage]:
    corrected = holm(means.p.tolist())
    saliency = usage.saliency
    return [
        ExpertDamage(
            layer=layer,
            expert=expert,
            tokens=int(usage.tokens[at]),
            delta_surprisal=float(means.mean[at]),
            interval=means.interval(at),
            kl=float(kl.mean[at]),
            kl_interval=kl.interval(at),
            p=float(means.p[at]),
            p_corrected=corrected[at],
            weight_mass=None if usage.weights is None else float(usage.weights[at]),
            saliency=None if saliency is None or np.isnan(saliency[at]) else float(saliency[at]),
            saliency_mass=None if usage.norms is None else float(usage.norms[at]),
        )
        for at, (layer, expert) in enumerate(chosen)
    ]


def _correlation(found: RankCorrelation) -> RankCorrelationResult:
    return RankCorrelationResult(
        pooled=_defined(found.pooled),
        pooled_interval=found.pooled_interval,
        within_layers=_defined(found.within),
        within_layers_interval=found.within_interval,
    )


def _split_half(damage: Blocks, layer: Ints) -> SplitHalf:
    pooled, within = split_half(*halves(damage), layer)
    return SplitHalf(pooled=_defined(pooled), within_layers=_defined(within))


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else value


def _controls(
    chosen: Sequence[Expert], delta: Blocks, means: BlockMeans, tokens: Ints, layer: Ints
) -> AblationControls:
    worst = int(np.argmax(means.mean))
    least = least_used(tokens)

    def control(at: int | None) -> AblationControl | None:
        if at is None or at == worst:
            return None
        apart = block_means(Blocks(delta.tokens, (delta.sums[worst] - delta.sums[at])[None, :]))
        return AblationControl(
            layer=chosen[at][0],
            expert=chosen[at][1],
            tokens=int(tokens[at]),
            delta_surprisal=float(means.mean[at]),
            difference=float(apart.mean[0]),
            difference_interval=apart.interval(0),
        )

    return AblationControls(
        layer=chosen[worst][0],
        expert=chosen[worst][1],
        least_used=control(least),
        same_layer=control(similar_expert(worst, tokens, layer)),
    )


def _whole(tokens: GivenTokens, records: AblationRecords) -> WholeModel:
    sums = np.concatenate([unpacked(records.whole[at].surprisal) for at in range(len(tokens.windows))])
    found = block_means(Blocks(tokens.block_tokens, sums[None, :]))
    return WholeModel(mean_surprisal=float(found.mean[0]), interval=found.interval(0))
