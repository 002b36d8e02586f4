"""Results of a measurement in sentences, for terminal and report."""

from __future__ import annotations

from moe_watch.routing.half_life.fit import in_words
from moe_watch.routing.pressure.external_energy import ExternalEnergy
from moe_watch.routing.pressure.position_control import PositionControl
from moe_watch.routing.stats.bootstrap import FEWEST_CLUSTERS, Estimate
from moe_watch.sessions.measuring.estimates import Estimates, verdicts
from moe_watch.sessions.text import plural

NO_CONTROL = "no control was measured (--no-control): position and age of a trend cannot be separated"


def summary_lines(findings: Estimates) -> list[str]:
    """Return the results, a line or two for each question."""
    plan, header = findings.plan, findings.plain[0].run.header
    return [
        f"{header.model.name} · {header.backend.name} · {plural(len(findings.plain), 'run')} of {plan.chunks} measured"
        f" chunks of {plural(plan.spec.chunk_size, 'token')} · {findings.mode}",
        f"verdicts: {verdict_counts(findings)}",
        f"mean of all runs: {in_words(findings.mean_fit)}",
        *control_lines(findings.control),
        *([] if plan.spec.forks is None else energy_lines(findings.energy)),
    ]


def verdict_counts(findings: Estimates) -> str:
    """Return the number of runs per verdict, without verdicts of no run."""
    return ", ".join(f"{count} {verdict}" for verdict, count in verdicts(findings.plain).items() if count)


def control_lines(control: PositionControl | None) -> list[str]:
    """Describe the effects of position and age on mid-pressure."""
    if control is None:
        return [f"position: {NO_CONTROL}"]
    return [
        f"over {control.shift:.0f} chunks mid-pressure changes by {estimate_text(control.trend)}:"
        f" {estimate_text(control.position)} by position alone, {estimate_text(control.age)} by age alone",
        f"position and age: {_separation(control)}",
    ]


def energy_lines(energy: ExternalEnergy | None) -> list[str]:
    """Describe the effect of the text on mid-pressure."""
    if energy is None:
        return ["external energy: n/a, no boundary was forked in every arm"]
    low, high = energy.replicates
    each = plural(low, "continuation") if low == high else f"{low} to {high} continuations"
    return [
        f"external energy: {estimate_text(energy.text_minus_neutral)} against neutral text,"
        f" {estimate_text(energy.text_minus_none)} against no text"
        f" ({energy.boundaries} {'boundary' if energy.boundaries == 1 else 'boundaries'}, {each} in each arm)",
        f"neutral text by itself: {estimate_text(energy.neutral_minus_none)} against no text",
    ]


def estimate_text(found: Estimate) -> str:
    """Return a difference with its interval, or the reason why it has none."""
    if found.interval is None:
        return f"{found.mean:+.4f} (interval n/a: {found.clusters} of at least {FEWEST_CLUSTERS} needed)"
    low, high = found.interval
    return f"{found.mean:+.4f} (95 % {low:+.4f} to {high:+.4f})"


def _separation(control: PositionControl) -> str:
    if control.position.interval is None:
        return f"not separated, {control.position.clusters} of at least {FEWEST_CLUSTERS} pairs of runs"
    position, age = control.position.is_other_than_zero, control.age.is_other_than_zero
    if position and age:
        return "both have an effect"
    if position:
        return "only position has a detectable effect in these runs; a trend in a baseline run is drift"
    if age:
        return "age has an effect, position has no detectable one in these runs"
    return "neither has a detectable effect in these runs"
