"""A comparison as one JSON object. What could not be had is null, with its reason beside it: docs/quantization.md."""

from __future__ import annotations

from typing import Any

import numpy as np

from moe_watch.routing.arrays import Floats, Ints
from moe_watch.routing.half_life.fit_json import fit_result
from moe_watch.routing.router.agreement import Agreement
from moe_watch.routing.stats.permutation import NoTest
from moe_watch.sessions.comparing.pairs import Comparison, SourcePair, Tested, UsageDistance, mean_distance
from moe_watch.sessions.comparing.sources import ComparedRun, ComparedSource
from moe_watch.sessions.comparing.tokens import TokenComparison

Json = dict[str, Any]

FORMAT = "moe-watch comparison 1"

NO_ORDER = "a recording without router probabilities holds experts by id, in no order of theirs"
"""Why there is no top-1 and no order."""


def comparison_result(found: Comparison) -> Json:
    """Everything that was found, as JSON-able values."""
    return {
        "format": FORMAT,
        "sources": [_source(each) for each in found.sources],
        "pairs": [_pair(pair, at) for at, pair in enumerate(found.pairs, 1)],
    }


def _source(source: ComparedSource) -> Json:
    header = source.header
    model, teacher = header and header.model, header and header.teacher
    return {
        "file": source.path.name,
        "kind": source.kind,
        "model": model and model.name,
        "layers": model and model.layers,
        "experts": model and model.experts,
        "experts_per_token": model and model.experts_per_token,
        "quantization": model and model.quantization,
        "backend": header and header.backend.name,
        "teacher": teacher and {"model": teacher.model, "backend": teacher.backend, "tokens": teacher.tokens},
        "pressure": source.mode,
        "runs": [_run(run) for run in source.runs],
        "router_entropy": source.mean("router_entropy"),
        "churn": source.mean("churn"),
        "surprisal": source.mean("surprisal"),
        "warnings": source.warnings,
    }


def _run(run: ComparedRun) -> Json:
    summary = run.summary
    return {
        "file": run.name,
        "tokens": summary.get("tokens"),
        "fit": run.fit and fit_result(run.fit, run.collapse),
        "fit_unavailable": run.unavailable or None,
        "router_entropy": summary.get("router_entropy"),
        "churn": summary.get("churn"),
        "surprisal": summary.get("surprisal"),
    }


def _pair(pair: SourcePair, at: int) -> Json:
    return {
        "sources": [0, at],
        "half_life": _test(pair.half_life, pair),
        "trend": _test(pair.trend, pair),
        "usage_distance": _usage(pair.usage),
        "agreement": _tokens(pair.tokens),
    }


def _test(tested: Tested, pair: SourcePair) -> Json:
    """A test, or why there is none."""
    outcome = tested.outcome
    found: Json = {"permuted": tested.permuted, "runs": [len(pair.a.runs), len(pair.b.runs)]}
    if isinstance(outcome, NoTest):
        return found | {"p": None, "unavailable": outcome.why}
    return found | {
        "difference": outcome.difference,
        "p": outcome.p,
        "p_corrected": tested.corrected,
        "ways": outcome.ways,
        "exact": outcome.exact,
        "unavailable": None,
    }


def _usage(usage: UsageDistance | str) -> Json:
    if isinstance(usage, str):
        return {"mean": None, "unavailable": usage}
    return {
        "phase": "decode",
        "mean": mean_distance(usage),
        "per_layer": optional(usage.distance),
        "rows": [usage.rows_a.tolist(), usage.rows_b.tolist()],
        "unavailable": None,
    }


def _tokens(found: TokenComparison | str) -> Json:
    if isinstance(found, str):
        return {"tokens": None, "unavailable": found}
    return {
        "tokens": found.tokens,
        "ended": found.ended or None,
        "routing": found.routing and agreement_result(found.routing),
        "unavailable": found.not_comparable or None,
    }


def agreement_result(found: Agreement) -> Json:
    """Agreement over all layers, and layer by layer; shares have `rows` as their denominator."""
    layers = range(len(found.rows))
    largest = found.largest
    return {
        "rows": int(found.rows.sum()),
        "only_first": int(found.unmatched.only_a.sum()),
        "only_second": int(found.unmatched.only_b.sum()),
        "sets": _share(found.sets, found.rows),
        "top_1": _share(found.top_1, found.rows) if found.ordered else None,
        "order": _share(found.order, found.rows) if found.ordered else None,
        "order_unavailable": None if found.ordered else NO_ORDER,
        "experts_kept": _share(found.kept, found.choices),
        "weight_difference": largest and {"largest": largest.weight, "i": largest.i, "layer": largest.layer},
        "ties": {
            "unit": found.recorded.weight_unit,
            "rows_with_weights": int(found.weighed.sum()),
            "sets": int(found.ties.sets.sum()),
            "top_1": int(found.ties.top_1.sum()) if found.ordered else None,
            "order": int(found.ties.order.sum()) if found.ordered else None,
        },
        "usage_distance": _mean(found.usage_distance),
        "usage_correlation": _mean(found.usage_correlation),
        "per_layer": [_layer(found, at) for at in layers],
    }


def _layer(found: Agreement, at: int) -> Json:
    """One layer's numbers."""
    rows = found.rows[at]
    return {
        "rows": int(rows),
        "sets": int(found.sets[at]),
        "top_1": int(found.top_1[at]) if found.ordered else None,
        "order": int(found.order[at]) if found.ordered else None,
        "experts_kept": _share(found.kept[at], found.choices[at]),
        "rank_of_top_1": found.rank_of_top_1[at].tolist() if found.ordered else None,
        "weight_difference": _number(found.difference[at]),
        "ties": {
            "sets": int(found.ties.sets[at]),
            "top_1": int(found.ties.top_1[at]) if found.ordered else None,
            "order": int(found.ties.order[at]) if found.ordered else None,
        },
        "usage_distance": _number(found.usage_distance[at]),
        "usage_correlation": _number(found.usage_correlation[at]),
    }


def optional(values: Floats) -> list[float | None]:
    """A row as JSON has it: null for NaN."""
    return [_number(value) for value in values]


def _number(value: float | np.float64) -> float | None:
    return None if np.isnan(value) else float(value)


def _mean(values: Floats) -> float | None:
    """Over the layers that have a value."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def _share(part: Ints | np.int64, whole: Ints | np.int64) -> float | None:
    total = int(np.sum(whole))
    return int(np.sum(part)) / total if total else None
