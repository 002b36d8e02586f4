"""Report of a measurement."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from moe_watch.backends.run_spec import ForkPlan
from moe_watch.routing.half_life.chronomoe import entropy_collapse
from moe_watch.routing.half_life.fit import Fit, in_words
from moe_watch.routing.pressure.formulas import WARM_UP_CHUNKS
from moe_watch.routing.router.masks import ExpertMask
from moe_watch.sessions.measuring.estimates import Estimates, FittedRun
from moe_watch.sessions.measuring.plan import Plan
from moe_watch.sessions.measuring.wording import control_lines, energy_lines, summary_lines
from moe_watch.sessions.text import markdown_text, mask_text, plural, routers_text, weights_text

CAPTIONS = {
    "trajectories": "Mid-pressure of every run (thin), their mean, and the curve fitted to the mean with its 95 % band",
    "half_lives": "Half-lives with 95 % intervals; a run without one has its verdict in its place",
    "entropy": "Router entropy of every run (thin) and their mean",
    "control": "Mean mid-pressure of baseline runs and of their late twins, by age and by position",
    "external_energy": "P_mid after the text minus P_mid after neutral text, at every forked boundary",
}


def report(findings: Estimates, figures: Sequence[Path], without_figures: str = "") -> str:
    """Return the report in Markdown.

    Args:
        findings: results of the measurement.
        figures: PNG files, as paths relative to the report.
        without_figures: reason why there are none, and how to get them.
    """
    shown = {path.stem: f"![{CAPTIONS[path.stem]}]({path.as_posix()})\n\n*{CAPTIONS[path.stem]}.*" for path in figures}
    parts = [
        f"# Mid-pressure of {markdown_text(findings.plain[0].run.header.model.name)}",
        "\n".join(f"- {line}" for line in summary_lines(findings)),
        without_figures and f"*{without_figures}*",
        "## What was measured",
        _protocol(findings),
        "## Runs",
        _runs(findings),
        shown.get("trajectories", ""),
        shown.get("half_lives", ""),
        "## Position or age",
        "\n\n".join(_sentences(control_lines(findings.control))),
        _CONTROL,
        shown.get("control", ""),
        "## Router entropy",
        _entropy(findings),
        shown.get("entropy", ""),
        *_energy(findings, findings.plan.spec.forks, shown),
        "## ChronoMoE's numbers for the same runs",
        _reference(findings),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


_CONTROL = (
    "A late twin has the prompt of its run, and text of another run before it. Baseline and late chunks of the same age"
    " differ in position alone; chunks at the same position differ in age alone. The text before the prompt"
    " differs too, so the part by position includes the effect of any text there."
)


def _protocol(findings: Estimates) -> str:
    plan, header = findings.plan, findings.plain[0].run.header
    backend, model = header.backend, header.model
    lines = [
        f"- model: {markdown_text(model.name)},"
        f" {routers_text(len(model.layers), model.experts, model.experts_per_token)},"
        f" {markdown_text(weights_text(model))}",
        f"- engine: {markdown_text(f'{backend.name} {backend.version}, {backend.device}')}",
        f"- each run: {WARM_UP_CHUNKS} warm-up and {plan.chunks} measured chunks of {plan.spec.chunk_size} tokens;"
        " end-of-text tokens are masked, so that the model continues",
        f"- sampler: {_sampler(plan)}",
        *([f"- experts off: {mask_text(ExpertMask.from_rows(plan.spec.mask))}"] if plan.spec.mask else []),
        f"- prompts: {_prompts(plan)}",
        *(f"- {markdown_text(warning)}" for warning in header.warnings),
    ]
    return "\n".join(lines)


def _sampler(plan: Plan) -> str:
    seeds = ", ".join(map(str, plan.seeds))
    sampler = plan.spec.sampler
    return (
        f"temperature {sampler.temperature:g}, top-p {sampler.top_p:g}, top-k {sampler.top_k or 'all'}, seeds {seeds}"
    )


def _prompts(plan: Plan) -> str:
    shown = [f"“{markdown_text(' '.join(prompt[:400].split())[:100])}”" for prompt in plan.prompts[:5]]
    more = len(plan.prompts) - len(shown)
    return ", ".join(shown) + (f" and {more} more, in turn" if more else "")


def _runs(findings: Estimates) -> str:
    late = dict(zip((each.run.planned.number for each in findings.plain), findings.late, strict=False))
    lines = [
        "| run | seed | verdict | half-life, chunks | p of no trend | would have ended in chunk | late twin |",
        "|---:|---:|---|---|---:|---|---|",
    ]
    for each in findings.plain:
        run, fit = each.run, each.fit
        twin = late.get(run.planned.number)
        lines.append(
            f"| {run.planned.number} | {run.planned.seed} | {fit.verdict} | {half_life_text(fit)} | {fit.p:.2g}"
            f" | {_stops(each)} | {twin.fit.verdict if twin else 'not measured'} |"
        )
    return "\n".join([*lines, "", f"Mean of all runs: {in_words(findings.mean_fit)}."])


def half_life_text(fit: Fit) -> str:
    """Return a half-life with its interval, or a short reason why there is none."""
    if fit.half_life is not None:
        return f"{fit.half_life:.1f}{_interval(fit)}"
    if fit.censored:
        return f"> {fit.span:.0f}"
    if fit.never:
        return f"never: floor {fit.never.floor:.2f} > half {fit.never.half:.2f}"
    return "none"


def _interval(fit: Fit) -> str:
    if fit.interval is None:
        return ""
    low, high = fit.interval
    return f" [{low:.1f}, {'∞' if high == float('inf') else f'{high:.1f}'}]"


def _stops(fitted: FittedRun) -> str:
    chunks = [fitted.run.chunk_of(i) for i in fitted.run.stops]
    found = sorted({chunk for chunk in chunks if chunk is not None})
    return ", ".join(map(str, found[:8])) + (", …" if len(found) > 8 else "") if found else "none"


def _entropy(findings: Estimates) -> str:
    collapses = [entropy_collapse(each.run.entropy) for each in findings.plain]
    found = [each.early_late for each in collapses if each is not None]
    if not found:
        return "n/a: router entropy was not recorded."
    mean = sum(found) / len(found)
    return (
        "Mean of the first 30 % of the measured chunks minus mean of the last 30 %:"
        f" {mean:+.4f} on average, {min(found):+.4f} to {max(found):+.4f} over runs (on a scale of 0 to 1;"
        " positive is a decrease)."
    )


def _energy(findings: Estimates, forks: ForkPlan | None, shown: dict[str, str]) -> list[str]:
    if forks is None:
        return []
    neutral, text = markdown_text(repr(forks.neutral)), markdown_text(repr(forks.text))
    boundaries = "every chunk boundary" if forks.every == 1 else f"one chunk boundary in {forks.every}"
    how = (
        f"At {boundaries} after the warm-up the context was copied and continued for one"
        f" chunk, {plural(forks.replicates, 'time')} each: without text, with {neutral} cut or repeated to the"
        f" number of tokens of the text, and with {text}. The runs themselves continued unchanged."
    )
    found = "\n\n".join(_sentences(energy_lines(findings.energy)))
    return ["## External energy", how, found, shown.get("external_energy", "")]


def _sentences(lines: list[str]) -> list[str]:
    return [f"{line[0].upper()}{line[1:]}." for line in lines]


def _reference(findings: Estimates) -> str:
    lines = [
        "| run | initial | final | linear slope | exponential tau | largest drop | at chunk | crossing |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for each in findings.plain:
        numbers, crossing = each.fit.reference, each.fit.crossing
        tau = "none" if numbers.exponential_tau is None else f"{numbers.exponential_tau:.1f}"
        lines.append(
            f"| {each.run.planned.number} | {numbers.initial_pressure:.4f} | {numbers.final_pressure:.4f}"
            f" | {numbers.linear_slope:+.6f} | {tau} | {numbers.max_single_drop:+.4f} | {numbers.max_drop_at_chunk}"
            f" | {'not reached' if crossing is None else crossing} |"
        )
    return "\n".join(lines)
