"""Text of a run's summary."""

from __future__ import annotations

from collections.abc import Sequence

from moe_watch.commands.tables import table_lines
from moe_watch.routing.results import (
    ContextResult,
    EndingResult,
    LayerMeans,
    PressureResult,
    RunSummary,
    UsageResult,
)
from moe_watch.sessions.text import plural

ENDINGS = {
    "eos": "the model ended its text",
    "length": "all requested tokens were generated",
    "context": "the context was full before all requested tokens were generated",
    "user": "stopped by the user",
}
"""Finish reasons in words."""


def summary_lines(summary: RunSummary | None) -> list[str]:
    """Return a summary as lines of text. Values that were not recorded are `n/a`."""
    if summary is None:
        return ["nothing was recorded"]
    if not summary.layers:  # one line says what a dense model has not, in place of a table and of a chart
        return [*_heading(summary), "", f"pressure n/a: {summary.pressure.fit_unavailable}", *_ending(summary)]
    return [*_heading(summary), "", *_layers(summary), "", *_pressure(summary.pressure), *_ending(summary)]


def _heading(summary: RunSummary) -> list[str]:
    tokens = summary.tokens
    from moe_watch.sessions.text import routers_text

    shape = routers_text(len(summary.layers), summary.experts, summary.experts_per_token)
    return [
        f"{summary.model} · {summary.backend} · {shape} · seed {summary.seed}",
        f"{plural(tokens.generated, 'token')} generated, {tokens.prompt:,} of prompt, {tokens.injected:,} injected",
        _means(summary),
        *_experts(summary),
    ]


def _experts(summary: RunSummary) -> list[str]:
    """Return notes about experts that were switched off, another number of experts per token, and a pruned model."""
    from moe_watch.sessions.text import PRUNED, masks_text, top_k_text

    found = [f"experts off: {masks_text(summary.masks)}"] if summary.masks else []
    if summary.own_experts_per_token is not None:
        own = top_k_text(summary.own_experts_per_token)
        found.append(f"{top_k_text(summary.experts_per_token)} in place of the model's own {own}")
    return found if summary.expert_ids is None else [*found, PRUNED]


def _means(summary: RunSummary) -> str:
    surprisal = f"surprisal {_number(summary.surprisal, 2)} nats"
    if not summary.layers:
        return surprisal
    return (
        f"router entropy {_mean(summary.router_entropy)} · router margin {_mean(summary.router_margin)}"
        f" · churn {_mean(summary.churn)} · {surprisal}"
    )


def _layers(summary: RunSummary) -> list[str]:
    """Return one line per MoE layer, over decode tokens if there are any. Shares are of all selections of the layer."""
    decoded = any(summary.usage.decode.rows) or not any(summary.usage.prefill.rows)
    usage = summary.usage.decode if decoded else summary.usage.prefill
    lines = [] if decoded else ["usage of prefill, as there is no decode token"]
    heading = ["layer", "router entropy", "usage entropy", "most used", "dead"]
    rows = [_layer(summary, usage, at) for at in range(len(summary.layers))]
    return [*lines, *table_lines([heading, *rows], right=(0, 1, 2))]


def _layer(summary: RunSummary, usage: UsageResult, at: int) -> list[str]:
    entropy = summary.router_entropy.per_layer[at] if summary.router_entropy else None
    return [
        str(summary.layers[at]),
        _number(entropy, 4),
        _number(usage.usage_entropy[at], 4),
        _most_used(usage.shares[at], usage.counts[at]),
        _dead(usage.dead[at], usage.switched_off[at], summary.experts),
    ]


def _most_used(shares: list[float | None], counts: list[int]) -> str:
    known = [(share, -expert) for expert, share in enumerate(shares) if share is not None]
    if not known:
        return "n/a"
    share, expert = max(known)
    return f"{-expert} ({100 * share:.1f} % of {sum(counts):,})"


def _dead(count: int | None, switched_off: int | None, experts: int) -> str:
    off = f", {switched_off} off" if switched_off else ""
    return "n/a" if count is None else f"{count} of {experts}{off}"


def _pressure(pressure: PressureResult) -> list[str]:
    from moe_watch.routing.half_life.series import since_mask
    from moe_watch.routing.pressure.formulas import mode_words

    where = f", context {pressure.context}" if len(pressure.contexts) > 1 else ""
    since = next((each.since_mask for each in pressure.contexts if each.context == pressure.context), None)
    where += f", {since_mask(since)}" if since is not None else ""
    name = f"mid-pressure, {mode_words(pressure.mode)}{where}"
    of_context = (chunk for chunk in pressure.chunks if chunk.context == pressure.context)
    of_mask = (chunk for chunk in of_context if since is None or chunk.tokens[0] >= since)
    complete = (chunk for chunk in of_mask if not (chunk.warm_up or chunk.partial))
    mids = [chunk.mid for chunk in complete if chunk.mid is not None]
    if not mids:
        missing = pressure.warm_up_missing
        if missing is None:
            return [f"{name}: n/a, {pressure.fit_unavailable}"]
        more = plural(missing, "more chunk")
        return [f"{name}: n/a, {f'{more} of warm-up needed' if missing else 'no measured chunk yet'}"]
    spread = f"{plural(len(mids), 'measured chunk')}, {min(mids):.4f} to {max(mids):.4f}, last {mids[-1]:.4f}"
    fit = pressure.fit
    verdict = [fit.words if fit else f"no verdict: {pressure.fit_unavailable}"]
    return [f"{name}: {spread}; {_crossing(pressure)}", *verdict, *context_lines(pressure.contexts)]


def context_lines(contexts: Sequence[ContextResult]) -> list[str]:
    """Return a line per context with its verdict, if there are several, from `contexts_result`."""
    if len(contexts) < 2:
        return []
    return [_context_line(each) for each in contexts]


def _context_line(context: ContextResult) -> str:
    from moe_watch.routing.half_life.series import since_mask

    since = f" {since_mask(context.since_mask)}" if context.since_mask is not None else ""
    words = context.words or f"no verdict: {context.fit_unavailable}"
    return f"  context {context.context}: {plural(context.measured, 'measured chunk')}{since}, {words}"


def _crossing(pressure: PressureResult) -> str:
    if pressure.initial is None:
        return f"first value n/a, the recording begins at chunk {pressure.begins_at_chunk}"
    at = pressure.crossing.chunk
    half = "half of it not reached" if at is None else f"half of it first reached in chunk {at}"
    return f"first {pressure.initial:.4f}, {half}"


def _ending(summary: RunSummary) -> list[str]:
    ended = summary.ended
    found = [] if not summary.would_stop else [f"the model would have stopped {plural(summary.would_stop, 'time')}"]
    if ended is None:
        return [*found, "the recording stops before the end of the run"]
    return [*found, f"ended: {_why(ended)}"]


def _why(ended: EndingResult) -> str:
    return ended.state if ended.why is None else ENDINGS.get(ended.why, ended.why) or ended.state


def _mean(measure: LayerMeans | None) -> str:
    return "n/a" if measure is None else _number(measure.mean, 4)


def _number(value: float | None, digits: int) -> str:
    return "n/a" if value is None else f"{value:.{digits}f}"
