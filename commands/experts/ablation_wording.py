"""Result of an ablation in sentences."""

from __future__ import annotations

from collections.abc import Iterable

from moe_watch.routing.experts.rankings import WORDS
from moe_watch.routing.results import Interval
from moe_watch.sessions.results.ablation import AblationControl, AblationReport

SIGNIFICANT = 0.05
UNSTABLE = 0.5
"""Split-half ρ within layers below which the damage itself is mostly noise."""


def interval_text(interval: Interval | None, digits: int = 2) -> str:
    """Return an interval as `[0.12, 0.34]`, or `n/a`."""
    return "n/a" if interval is None else f"[{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]".replace("-", "−")


def p_text(p: float) -> str:
    """Return a p-value with three decimals; `<0.001` below."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def verdict(report: AblationReport) -> str:
    """Return one sentence about the rankings: which of them predicts the damage best, if they differ."""
    scores = {
        name: found.delta_surprisal.within_layers
        for name, found in report.rank_correlations.items()
        if found.delta_surprisal.within_layers is not None
    }
    if len(scores) < 2:
        return "Too few rankings have a ρ within layers to be compared."
    order = sorted(scores, key=lambda name: -scores[name])
    best, others = order[0], order[1:]
    clear = {(pair.better, pair.worse): pair.interval[0] > 0 for pair in report.differences}
    equal = [name for name in others if not clear.get((best, name), False)]
    worse = [name for name in others if name not in equal]

    def scored(names: Iterable[str]) -> str:
        return _listed(f"{WORDS[name]} {_rho(scores[name])}" for name in names)

    if not any(clear.values()):
        return f"The rankings do not differ from each other: ρ within layers is {scored(order)}."
    if not worse:
        return (
            f"No ranking is clearly the best: ρ within layers is {scored(order)}; {WORDS[best]} does not differ from"
            f" the others."
        )
    interval = interval_text(report.rank_correlations[best].delta_surprisal.within_layers_interval)
    own = f"ρ within layers {_rho(scores[best])} {interval}"
    said = f"{WORDS[best].capitalize()} predicts the damage best"
    if equal:
        said += f", but not clearly better than {_listed(WORDS[name] for name in equal)}"
    return f"{said}: {_listed([own, *(_rho(scores[name]) for name in equal)])}; {scored(worse)}."


def kl_verdict(report: AblationReport) -> str:
    """Return one sentence about the ranking with the largest ρ with KL; empty if there is none."""
    scores = {
        name: found.kl.within_layers
        for name, found in report.rank_correlations.items()
        if found.kl.within_layers is not None
    }
    if not scores:
        return ""
    best = max(scores, key=lambda name: scores[name])
    interval = interval_text(report.rank_correlations[best].kl.within_layers_interval)
    return f"With KL, {WORDS[best]} has the largest ρ within layers: {_rho(scores[best])} {interval}."


def stability(report: AblationReport) -> str:
    """Return one sentence about the damage itself."""
    rho = report.split_half.delta_surprisal.within_layers
    if rho is None:
        return "The stability of the damage is unknown: too few experts per layer."
    said = f"Two halves of the tokens agree on the damage with ρ {_rho(rho)} within layers"
    return f"{said}: it is mostly noise, measure more tokens." if rho < UNSTABLE else f"{said}."


def significance(report: AblationReport) -> str:
    """Return one sentence about the experts whose damage differs from 0."""
    found = [each for each in report.experts if each.p_corrected <= SIGNIFICANT]
    helped = sum(each.delta_surprisal < 0 for each in found)
    unused = sum(each.tokens == 0 for each in report.experts)
    said = f"{len(found)} of {len(report.experts)} experts change the surprisal (p corrected ≤ {SIGNIFICANT:g})"
    if helped:
        said += f", {helped} of them lower it"
    if unused:
        said += f"; no token selects {unused}"
    return f"{said}."


def controls_text(report: AblationReport) -> list[str]:
    """Return one sentence per control of the most damaging expert."""
    controls = report.controls
    worst = f"{controls.layer}:{controls.expert}"
    found = []
    for words, control in (
        ("the least used expert", controls.least_used),
        ("an expert of its layer with a similar number of tokens", controls.same_layer),
    ):
        if control is not None:
            found.append(f"Control: {worst} costs {_apart(control)} nats more than {words}, {_named(control)}.")
    return found


def _apart(control: AblationControl) -> str:
    return f"{control.difference:.4f} {interval_text(control.difference_interval, 4)}"


def _named(control: AblationControl) -> str:
    return f"{control.layer}:{control.expert} ({control.tokens:,} tokens)"


def _rho(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def _listed(parts: Iterable[str]) -> str:
    """Return `a`, `a and b`, or `a, b and c`."""
    *front, last = parts
    return f"{', '.join(front)} and {last}" if front else last
