"""Text of a comparison: a table of the sources, then each pair."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from math import isnan

import numpy as np
from msgspec.structs import asdict

from moe_watch.commands.tables import table_lines
from moe_watch.routing.arrays import Ints
from moe_watch.routing.half_life.fit import Fit
from moe_watch.routing.results import Quantity
from moe_watch.routing.router.agreement import Agreement
from moe_watch.routing.stats.permutation import NoTest
from moe_watch.sessions.comparing.pairs import Comparison, SourcePair, Tested, UsageDistance, dense_reason
from moe_watch.sessions.comparing.result import NO_ORDER
from moe_watch.sessions.comparing.sources import ComparedSource, letter
from moe_watch.sessions.comparing.tokens import shape_text
from moe_watch.sessions.measuring.report import half_life_text
from moe_watch.sessions.text import weights_text
from moe_watch.tui.text.format import size
from moe_watch.tui.text.sanitize import one_line

LONGEST_CELL = 44


def comparison_lines(found: Comparison) -> list[str]:
    """Return a comparison as lines of text."""
    names = [letter(at) for at in range(len(found.sources))]
    lines = table_lines([["", *names], *_facts(found.sources)])
    for name, pair in zip(names[1:], found.pairs, strict=True):
        lines += ["", f"{names[0]} and {name}", *(f"  {line}".rstrip() for line in _pair_lines(pair))]
    return lines


# -- the sources


def _facts(sources: list[ComparedSource]) -> list[list[str]]:
    """Return the rows of the table of sources."""
    facts: dict[str, Callable[[ComparedSource], str]] = {
        "file": lambda source: source.path.name,
        "model": _model,
        "weights": _weights,
        "engine": lambda source: "n/a" if source.header is None else source.header.backend.name,
        "tokens": _tokens,
        "experts off": lambda source: source.masks or "none",
        "pressure": lambda source: "n/a" if source.is_dense else source.mode or "mode not named",
        "verdict": lambda source: _counted("n/a" if run.fit is None else run.fit.verdict for run in source.runs),
        "half-life": _half_lives,
        "slope a chunk": lambda source: _mean_of_fits(source, lambda fit: fit.reference.linear_slope, "+.6f"),
        "exponential tau": lambda source: _mean_of_fits(source, lambda fit: fit.reference.exponential_tau, ".1f"),
        "largest drop": lambda source: _mean_of_fits(source, lambda fit: fit.reference.max_single_drop, "+.4f"),
        "router entropy": lambda source: _mean(source, "router_entropy"),
        "entropy collapse": _collapse,
        "churn": lambda source: _mean(source, "churn"),
        "surprisal": lambda source: _mean(source, "surprisal"),
        "tokens/s": lambda source: _figure(source.tokens_per_second, ".1f"),
        "worker memory": lambda source: "n/a" if source.worker_memory is None else size(source.worker_memory),
        "hottest sensor": lambda source: _figure(source.celsius, ".0f", " °C"),
    }
    rows = [[name, *(_cut(fact(source)) for source in sources)] for name, fact in facts.items()]
    is_dense = all(source.is_dense for source in sources)
    empty = {"experts off": "none"} | (dict.fromkeys(facts, "n/a") if is_dense else {})
    return [row for row in rows if set(row[1:]) != {empty.get(row[0])}]


def _figure(value: float | None, form: str, unit: str = "") -> str:
    return "n/a" if value is None else f"{value:{form}}{unit}"


def _cut(text: str) -> str:
    return one_line(text, LONGEST_CELL)


def _model(source: ComparedSource) -> str:
    return "n/a" if source.header is None else f"{source.header.model.name}, {shape_text(source.header)}"


def _weights(source: ComparedSource) -> str:
    return "n/a" if source.header is None else weights_text(source.header.model)


def _tokens(source: ComparedSource) -> str:
    counts: Counter[str] = Counter()
    for run in source.runs:
        counts.update({} if run.summary is None else asdict(run.summary.tokens))
    said = ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "n/a"
    return f"{said} in {len(source.runs)} runs" if len(source.runs) > 1 else said


def _counted(said: Iterable[str]) -> str:
    """Return the distinct texts of the runs with their counts; the text alone for a single run."""
    counts = Counter(said)
    if counts.total() == 1:
        return next(iter(counts))
    return ", ".join(f"{count} × {each}" for each, count in counts.most_common())


def _half_lives(source: ComparedSource) -> str:
    return _counted("n/a" if run.fit is None else half_life_text(run.fit) for run in source.runs)


def _mean_of_fits(source: ComparedSource, number: Callable[[Fit], float | None], form: str) -> str:
    found = [value for fit in source.fits if (value := number(fit)) is not None]
    return _mean_text(found, len(source.runs), form)


def _collapse(source: ComparedSource) -> str:
    found = [run.collapse.early_late for run in source.runs if run.collapse is not None]
    return _mean_text(found, len(source.runs), "+.4f")


def _mean_text(found: Sequence[float], runs: int, form: str) -> str:
    """Return the mean over the runs that have a value, and their number unless all have one."""
    if not found:
        return "n/a"
    return f"{np.mean(found):{form}}" + (f" ({len(found)} of {runs} runs)" if len(found) < runs else "")


def _mean(source: ComparedSource, quantity: Quantity) -> str:
    value = source.mean(quantity)
    return "n/a" if value is None else f"{value:.4f}"


# -- a pair


def _pair_lines(pair: SourcePair) -> list[str]:
    if why := dense_reason(pair.a, pair.b):
        return [*_token_lines(pair), f"half-life, trend, usage and routing: n/a: {why}"]
    return [
        f"half-life: {_test(pair.half_life, 'mean ranks {:+.1f} apart')}",
        f"trend: {_test(pair.trend, _trend_form(pair))}",
        f"usage, decode tokens: {_usage(pair.usage)}",
        *_token_lines(pair),
    ]


def _trend_form(pair: SourcePair) -> str:
    """Return a format of the difference: the slope of single runs, of several the rise from first to last 30 %."""
    one_each = len(pair.a.runs) == len(pair.b.runs) == 1
    return "{:+.6f} a chunk apart" if one_each else "mid-pressure rises by {:+.4f} more over the run"


def _test(tested: Tested, form: str) -> str:
    outcome = tested.outcome
    if isinstance(outcome, NoTest):
        return f"n/a: {outcome.why}"
    several = tested.corrected is not None and tested.corrected != outcome.p
    corrected = f", {tested.corrected:.2g} corrected for several pairs" if several else ""
    ways = f"all {outcome.ways:,} ways" if outcome.exact else f"{outcome.ways:,} random ways"
    return f"{form.format(outcome.difference)}, p = {outcome.p:.2g}{corrected} (permuted: {tested.permuted}; {ways})"


def _usage(usage: UsageDistance | str) -> str:
    if isinstance(usage, str):
        return f"n/a: {usage}"
    known = usage.distance[~np.isnan(usage.distance)]
    rows = f"{_range(usage.rows_a)} and {_range(usage.rows_b)} rows a layer"
    return f"Jensen–Shannon distance {known.mean():.4f}, {known.min():.4f} to {known.max():.4f} by layer ({rows})"


def _range(values: Ints) -> str:
    low, high = int(values.min()), int(values.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _token_lines(pair: SourcePair) -> list[str]:
    """Return the token-by-token comparison; if there is none, usage by layer."""
    found = pair.tokens
    if isinstance(found, str):
        return [f"token by token: n/a: {found}", *_usage_by_layer(pair.usage)]
    same = f"{found.tokens:,} {'is' if found.tokens == 1 else 'are'} the same"
    tokens = [f"tokens: {same}; {found.ended}" if found.ended else f"tokens: {same}, all of them"]
    if (common := found.surprisal) is not None:
        means = f"{common.first:.4f} and {common.second:.4f} nats, mean of {common.tokens:,}"
        tokens.append(f"surprisal of these tokens: {means}")
    if dense_reason(pair.a, pair.b):
        return tokens
    if found.routing is None:
        return [*tokens, f"routing: n/a: {found.not_comparable}", *_usage_by_layer(pair.usage)]
    return [*tokens, *_routing_lines(found.routing)]


def _usage_by_layer(usage: UsageDistance | str) -> list[str]:
    if isinstance(usage, str):
        return []
    rows = zip(usage.distance, usage.rows_a, usage.rows_b, strict=True)
    table = [[str(at), _number(distance), f"{a:,}", f"{b:,}"] for at, (distance, a, b) in enumerate(rows)]
    return ["", *table_lines([["layer", "usage JS", "rows", "rows"], *table], right=range(1, 4))]


def _number(value: float) -> str:
    return "n/a" if isnan(value) else f"{value:.4f}"


def _routing_lines(found: Agreement) -> list[str]:
    rows = int(found.rows.sum())
    if not rows:
        return ["routing: n/a: no row was computed by both"]
    return [
        f"expert sets equal: {_share(int(found.sets.sum()), rows)}",
        *_order_lines(found, rows),
        _weights_line(found),
        *_left_out(found),
        "",
        *_layers(found),
    ]


def _order_lines(found: Agreement, rows: int) -> list[str]:
    if not found.ordered:
        return [f"top-1 and order: n/a: {NO_ORDER}"]
    return [
        f"top-1 equal: {_share(int(found.top_1.sum()), rows)}",
        f"order equal: {_share(int(found.order.sum()), rows)}",
        *([] if found.order.sum() == rows else [_ties(found)]),
    ]


def _share(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,} rows ({_percent(part, whole)})"


def _percent(part: int, whole: int) -> str:
    """Return a share such as `99.8 %`; `100 %` only if `part` equals `whole`, and `n/a` if that is 0."""
    if not whole:
        return "n/a"
    return "100 %" if part == whole else f"{min(100 * part / whole, 99.9):.1f} %"


def _ties(found: Agreement) -> str:
    """Return the numbers of rows that differ by less than the recording can resolve."""
    if not found.weighed.any():
        return "ties: n/a: weights were not recorded"
    rows, sets, top_1, order = (int(each.sum()) for each in (found.rows, found.sets, found.top_1, found.order))
    kinds = (
        ("other sets", found.ties.sets, rows - sets),
        ("other top-1", found.ties.top_1, rows - top_1),
        ("other orders of a set", found.ties.order, sets - order),
    )
    said = [f"{int(ties.sum())} of {differing} {name}" for name, ties, differing in kinds]
    return f"ties within the recording's unit ({found.recorded.weight_unit:g}): {', '.join(said)}"


def _weights_line(found: Agreement) -> str:
    if found.largest is None:
        return "weights: n/a: none were recorded in rows with the same experts"
    at = found.largest
    return f"largest difference of a weight, where sets are equal: {at.weight:.4f} (token {at.i}, layer {at.layer})"


def _left_out(found: Agreement) -> list[str]:
    """Return the numbers of rows that only one run has.

    llama.cpp computes the last layer of a prompt for its last token only.
    """
    a, b = int(found.unmatched.only_a.sum()), int(found.unmatched.only_b.sum())
    return [f"not compared: {a:,} rows only in the first session, {b:,} only in the second"] if a + b else []


def _layers(found: Agreement) -> list[str]:
    heading = ["layer", "rows", "sets", "top-1", "order", "experts kept", "weight", "usage JS", "usage rank"]
    return table_lines([heading, *(_layer(found, at) for at in range(len(found.rows)))], right=range(1, len(heading)))


def _layer(found: Agreement, at: int) -> list[str]:
    rows = int(found.rows[at])
    sets, *order = (_percent(int(each[at]), rows) for each in (found.sets, found.top_1, found.order))
    same = [sets, *(order if found.ordered else ("n/a", "n/a"))]
    others = (found.difference[at], found.usage_distance[at], found.usage_correlation[at])
    return [str(at), f"{rows:,}", *same, _percent(int(found.kept[at]), int(found.choices[at])), *map(_number, others)]
