"""Result of `ablate` on the screen: experts by damage, rankings, and what follows from them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from moe_watch.commands.experts.ablation_wording import (
    controls_text,
    interval_text,
    kl_verdict,
    p_text,
    significance,
    stability,
    verdict,
)
from moe_watch.commands.tables import table_lines
from moe_watch.routing.experts.rankings import WORDS

if TYPE_CHECKING:
    from moe_watch.sessions.results.ablation import AblationReport, ExpertDamage, RankCorrelationResult

MOST_ROWS = 60
"""Most experts on the screen; of more, the most and the least damaging ones are shown."""
HEADING = ["EXPERT", "TOKENS", "Δ NATS", "95 %", "KL", "P HOLM", "WEIGHT", "SALIENCY"]


def report_lines(report: AblationReport) -> Iterator[str]:
    """Yield the lines of a result, at most 80 cells wide."""
    whole = report.whole
    yield (
        f"{report.model}: {report.tokens:,} tokens in {report.corpus.windows} windows, surprisal"
        f" {whole.mean_surprisal:.4f} nats with all experts on"
    )
    yield ""
    yield from table_lines([HEADING, *_expert_rows(report)], right=(1, 2, 3, 4, 5, 6, 7))
    yield ""
    ranked = [["RANKING", "ρ WITHIN LAYERS", "ρ POOLED", "ρ WITHIN, KL"]]
    for name, found in report.rank_correlations.items():
        ranked.append([WORDS[name], *_correlations(found.delta_surprisal), _within(found.kl)])
    yield from table_lines(ranked)
    yield ""
    yield from _wrapped(verdict(report))
    yield from _wrapped(kl_verdict(report))
    yield from _wrapped(stability(report))
    yield from _wrapped(significance(report))
    for line in controls_text(report):
        yield from _wrapped(line)


def _expert_rows(report: AblationReport) -> list[list[str]]:
    ordered = sorted(report.experts, key=lambda each: -each.delta_surprisal)
    if len(ordered) <= MOST_ROWS:
        return [_row(each) for each in ordered]
    half = MOST_ROWS // 2
    left_out = f"… {len(ordered) - 2 * half:,} more"
    return [
        *(_row(each) for each in ordered[:half]),
        [left_out, *([""] * (len(HEADING) - 1))],
        *(_row(each) for each in ordered[-half:]),
    ]


def _row(each: ExpertDamage) -> list[str]:
    return [
        f"{each.layer}:{each.expert}",
        f"{each.tokens:,}",
        _signed(each.delta_surprisal),
        interval_text(each.interval, 4),
        f"{each.kl:.4f}",
        p_text(each.p_corrected),
        "n/a" if each.weight_mass is None else f"{each.weight_mass:,.1f}",
        "n/a" if each.saliency is None else f"{each.saliency:.3g}",
    ]


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", "−")


def _correlations(found: RankCorrelationResult) -> list[str]:
    return [_within(found), _with_interval(found.pooled, found.pooled_interval)]


def _within(found: RankCorrelationResult) -> str:
    return _with_interval(found.within_layers, found.within_layers_interval)


def _with_interval(value: float | None, interval: tuple[float, float] | None) -> str:
    return "n/a" if value is None else f"{value:.2f} {interval_text(interval)}".replace("-", "−")


def _wrapped(text: str) -> list[str]:
    import textwrap

    return textwrap.wrap(text, 80)
