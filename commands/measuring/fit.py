"""`moe-watch fit`: fit the half-life of a session or of a P_mid series."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from moe_watch.commands.output import complain, print_result, say
from moe_watch.commands.tables import table_lines

if TYPE_CHECKING:
    from moe_watch.routing.half_life.fit import Candidate, Fit
    from moe_watch.routing.results import FitReport
    from moe_watch.sessions.fitting.file_fit import FileFit

EPILOG = """
FILE is a session, CSV (one column, or a column `mid`), a JSON list of numbers, or a result file of ChronoMoE's own
measurement (trajectory.mid_pressures), which is in chronomoe-v1. Definitions: docs/measurements.md, "Half-life".
"""


@click.command(epilog=EPILOG)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--pressure",
    metavar="MODE",
    help="measured-v2, measured-v1 or chronomoe-v1: the mode to compute for a session, or the mode of a series. "
    "Without it a series is never `unreachable`.",
)
@click.option(
    "--context",
    type=click.IntRange(min=0),
    metavar="N",
    help="Number of the context to fit, from 0. Default: the newest one that is long enough.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the fit as one JSON object.")
def fit(file: Path, pressure: str | None, context: int | None, as_json: bool) -> None:
    """Fit mid-pressure in FILE: verdict, shape, and half-life in chunks.

    A run that continued in a fresh context has a separate fit for each context.
    """
    from moe_watch.sessions.fitting.file_fit import fit_file
    from moe_watch.sessions.library.lookup import session_file

    found = fit_file(session_file(file), pressure, context)
    for warning in found.warnings:
        complain(warning)
    if as_json:
        print_result(_result(found))
        return
    for line in _lines(found):
        say(line)


def _result(found: FileFit) -> FitReport:
    from msgspec import structs

    from moe_watch.routing.half_life.fit_json import fit_result
    from moe_watch.routing.results import FitReport
    from moe_watch.routing.summary import contexts_result

    return FitReport(
        **structs.asdict(fit_result(found.fit, found.collapse)),
        context=found.context if found.contexts else None,
        contexts=contexts_result(found.contexts),
    )


def _lines(found: FileFit) -> list[str]:
    from moe_watch.routing.half_life.series import since_mask
    from moe_watch.routing.half_life.wording import by_weight, doubt, in_words
    from moe_watch.routing.pressure.formulas import mode_words
    from moe_watch.sessions.text import plural

    fit = found.fit
    mode = "mode not named" if fit.mode is None else mode_words(fit.mode)
    several = f"context {found.context}: " if len(found.contexts) > 1 else ""
    masked_at = next((each.masked_at for each in found.contexts if each.number == found.context), None)
    since = f", {since_mask(masked_at)}" if masked_at is not None else ""
    said = doubt(fit)
    heading = ["shape", "weight", "AICc", "parameters"]
    return [
        several + in_words(fit),
        "",
        f"{plural(fit.chunks, 'chunk')}, {mode}, from chunk {fit.first} on{since}; correlation of successive noise"
        f" {fit.phi:.2f}",
        f"trend test: p = {fit.p:.2g} for a single look, {fit.p_sequential:.2g} for"
        f" {plural(fit.looks, 'sequential look')}",
        _crossing(fit),
        *_contexts(found),
        "",
        *table_lines(
            [heading, *(_candidate(each, chosen=each is fit.chosen) for each in by_weight(fit))], right=(1, 2)
        ),
        *([said] if said else []),
        "",
        *_reference(found),
    ]


def _contexts(found: FileFit) -> list[str]:
    """Return a line per context if there are several."""
    from moe_watch.commands.recordings.summary_text import context_lines
    from moe_watch.routing.summary import contexts_result

    return context_lines(contexts_result(found.contexts))


def _crossing(fit: Fit) -> str:
    at = "no chunk is" if fit.crossing is None else f"chunk {fit.crossing} is the first one"
    return f"{at} at or below half of the first value, as ChronoMoE counts"


def _candidate(candidate: Candidate, *, chosen: bool) -> list[str]:
    from math import isinf

    from moe_watch.tui.text.format import percent

    aicc = "n/a" if isinf(candidate.aicc) else f"{candidate.aicc:.1f}"
    parameters = ", ".join(f"{name} {value:.4g}" for name, value in candidate.parameters.items())
    mark = "  ← chosen" if chosen else ""
    return [candidate.shape, percent(candidate.weight), aicc, f"{parameters}{mark}"]


def _reference(found: FileFit) -> list[str]:
    numbers = found.fit.reference
    tau = "n/a (it does not fall)" if numbers.exponential_tau is None else f"{numbers.exponential_tau:.2f} chunks"
    lines = [
        "as ChronoMoE computes:",
        f"  linear slope {numbers.linear_slope:+.6f} per chunk, exponential tau {tau}",
        f"  largest drop {numbers.max_single_drop:+.4f} after chunk {numbers.max_drop_at_chunk} of the series",
        f"  {numbers.initial_pressure:.4f} to {numbers.final_pressure:.4f} ({numbers.total_decay:+.4f}),"
        f" mean {numbers.mean:.4f}, std {numbers.std:.4f}, min {numbers.min:.4f}, max {numbers.max:.4f}",
    ]
    if found.collapse is None:
        return [*lines, "  entropy collapse n/a: no router entropy for these chunks"]
    first_last, early_late = found.collapse.first_last, found.collapse.early_late
    return [*lines, f"  entropy collapse {first_last:+.4f} first to last, {early_late:+.4f} first 30 % to last 30 %"]
