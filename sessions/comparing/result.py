"""Comparison as it is printed. Values that are unavailable are None, with a reason: docs/json.md."""

from __future__ import annotations

import numpy as np
from msgspec import convert

from moe_watch.routing.arrays import Floats, Ints
from moe_watch.routing.half_life.fit_json import fit_result
from moe_watch.routing.results import finite, finites
from moe_watch.routing.router.agreement import Agreement
from moe_watch.routing.stats.permutation import NoTest
from moe_watch.sessions.comparing.pairs import Comparison, SourcePair, Tested, UsageDistance, mean_distance
from moe_watch.sessions.comparing.sources import ComparedRun, ComparedSource
from moe_watch.sessions.comparing.tokens import TokenComparison
from moe_watch.sessions.results.comparison import (
    AgreementResult,
    ComparedRunResult,
    ComparedSourceResult,
    ComparisonResult,
    LayerAgreement,
    LayerTies,
    PairResult,
    PermutationResult,
    SurprisalResult,
    TeacherResult,
    TieCounts,
    TokenAgreement,
    UsageDistanceResult,
    WeightDifference,
)

NO_ORDER = "a recording without router probabilities has experts by id, not in the order of their probabilities"
"""Reason for a missing top-1 and a missing order."""


def comparison_result(found: Comparison) -> ComparisonResult:
    """Return a comparison as it is printed."""
    return ComparisonResult(
        format="moe-watch comparison 1",
        sources=[_source(each) for each in found.sources],
        pairs=[_pair(pair, at) for at, pair in enumerate(found.pairs, 1)],
    )


def _source(source: ComparedSource) -> ComparedSourceResult:
    header = source.header
    model = header.model if header else None
    teacher = header.teacher if header else None
    return ComparedSourceResult(
        file=source.path.name,
        kind=source.kind,
        model=model.name if model else None,
        layers=model.layers if model else None,
        experts=model.experts if model else None,
        experts_per_token=model.experts_per_token if model else None,
        quantization=model.quantization if model else None,
        backend=header.backend.name if header else None,
        teacher=TeacherResult(model=teacher.model, backend=teacher.backend, tokens=teacher.tokens) if teacher else None,
        pressure=None if source.is_dense else source.mode,
        runs=[_run(run) for run in source.runs],
        router_entropy=source.mean("router_entropy"),
        churn=source.mean("churn"),
        surprisal=source.mean("surprisal"),
        tokens_per_second=source.tokens_per_second,
        worker_memory=source.worker_memory,
        celsius=source.celsius,
        warnings=source.warnings,
    )


def _run(run: ComparedRun) -> ComparedRunResult:
    summary = run.summary
    return ComparedRunResult(
        file=run.name,
        tokens=summary.tokens if summary else None,
        fit=fit_result(run.fit, run.collapse) if run.fit else None,
        fit_unavailable=run.unavailable or None,
        router_entropy=summary.router_entropy if summary else None,
        churn=summary.churn if summary else None,
        surprisal=summary.surprisal if summary else None,
    )


def _pair(pair: SourcePair, at: int) -> PairResult:
    return PairResult(
        sources=(0, at),
        half_life=_test(pair.half_life, pair),
        trend=_test(pair.trend, pair),
        usage_distance=_usage(pair.usage),
        agreement=_tokens(pair.tokens),
    )


def _test(tested: Tested, pair: SourcePair) -> PermutationResult:
    """Return a test, or why there is none."""
    outcome, runs = tested.outcome, (len(pair.a.runs), len(pair.b.runs))
    if isinstance(outcome, NoTest):
        return PermutationResult(permuted=tested.permuted, runs=runs, p=None, unavailable=outcome.why)
    return PermutationResult(
        permuted=tested.permuted,
        runs=runs,
        difference=outcome.difference,
        p=outcome.p,
        p_corrected=tested.corrected,
        ways=outcome.ways,
        exact=outcome.exact,
        unavailable=None,
    )


def _usage(usage: UsageDistance | str) -> UsageDistanceResult:
    if isinstance(usage, str):
        return UsageDistanceResult(mean=None, unavailable=usage)
    return UsageDistanceResult(
        phase="decode",
        mean=mean_distance(usage),
        per_layer=finites(usage.distance),
        rows=(usage.rows_a.tolist(), usage.rows_b.tolist()),
        unavailable=None,
    )


def _tokens(found: TokenComparison | str) -> TokenAgreement:
    if isinstance(found, str):
        return TokenAgreement(tokens=None, unavailable=found)
    return TokenAgreement(
        tokens=found.tokens,
        ended=found.ended or None,
        routing=agreement_result(found.routing) if found.routing else None,
        surprisal=convert(found.surprisal, SurprisalResult, from_attributes=True) if found.surprisal else None,
        unavailable=found.not_comparable or None,
    )


def agreement_result(found: Agreement) -> AgreementResult:
    """Return the agreement over all layers, and of each layer."""
    largest = found.largest
    return AgreementResult(
        rows=int(found.rows.sum()),
        only_first=int(found.unmatched.only_a.sum()),
        only_second=int(found.unmatched.only_b.sum()),
        sets=_share(found.sets, found.rows),
        top_1=_share(found.top_1, found.rows) if found.ordered else None,
        order=_share(found.order, found.rows) if found.ordered else None,
        order_unavailable=None if found.ordered else NO_ORDER,
        experts_kept=_share(found.kept, found.choices),
        weight_difference=WeightDifference(largest=largest.weight, i=largest.i, layer=largest.layer)
        if largest
        else None,
        ties=TieCounts(
            unit=found.recorded.weight_unit,
            rows_with_weights=int(found.weighed.sum()),
            sets=int(found.ties.sets.sum()),
            top_1=int(found.ties.top_1.sum()) if found.ordered else None,
            order=int(found.ties.order.sum()) if found.ordered else None,
        ),
        usage_distance=_mean(found.usage_distance),
        usage_correlation=_mean(found.usage_correlation),
        per_layer=[_layer(found, at) for at in range(len(found.rows))],
    )


def _layer(found: Agreement, at: int) -> LayerAgreement:
    return LayerAgreement(
        rows=int(found.rows[at]),
        sets=int(found.sets[at]),
        top_1=int(found.top_1[at]) if found.ordered else None,
        order=int(found.order[at]) if found.ordered else None,
        experts_kept=_share(found.kept[at], found.choices[at]),
        rank_of_top_1=found.rank_of_top_1[at].tolist() if found.ordered else None,
        weight_difference=finite(found.difference[at]),
        ties=LayerTies(
            sets=int(found.ties.sets[at]),
            top_1=int(found.ties.top_1[at]) if found.ordered else None,
            order=int(found.ties.order[at]) if found.ordered else None,
        ),
        usage_distance=finite(found.usage_distance[at]),
        usage_correlation=finite(found.usage_correlation[at]),
    )


def _mean(values: Floats) -> float | None:
    """Return the mean over the layers that have a value."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def _share(part: Ints | np.int64, whole: Ints | np.int64) -> float | None:
    total = int(np.sum(whole))
    return int(np.sum(part)) / total if total else None
