"""`moe-watch fit`: the half-life of a recorded session or of a series of numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from commands.options import session_file
from commands.output import complain, say

if TYPE_CHECKING:
    from routing.half_life import Candidate, Fit
    from sessions.fitting import FileFit

EPILOG = """
FILE is a session, CSV (one column, or one called `mid`), a JSON list of numbers, or a result file of ChronoMoE's own
measurement (trajectory.mid_pressures), which is in chronomoe-v1. The numbers: docs/measurements.md, "Half-life".
"""


@click.command(short_help="Fit the half-life of a session's or a file's pressure.", epilog=EPILOG)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--pressure",
    metavar="MODE",
    help="measured-v1 or chronomoe-v1: of a session, the one to compute; of a series, the one it is in. "
    "Without it, whether a series can reach half is not judged.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the fit as one JSON object.")
def fit(file: Path, pressure: str | None, as_json: bool) -> None:
    """Say whether mid-pressure in FILE falls, in which shape, and after how many chunks it is half."""
    from routing.fit_result import fit_result
    from sessions.fitting import fit_file

    found = fit_file(session_file(file), pressure)
    for warning in found.warnings:
        complain(warning)
    if as_json:
        click.echo(json.dumps(fit_result(found.fit, found.collapse), allow_nan=False))
        return
    for line in _lines(found):
        say(line)


def _lines(found: FileFit) -> list[str]:
    from routing.half_life import in_words

    fit = found.fit
    mode = fit.mode or "mode not named"
    return [
        in_words(fit),
        "",
        f"{fit.chunks} chunks ({mode}), p = {fit.p:.2g} for noise alone, φ = {fit.phi:.2f}",
        _crossing(fit),
        "",
        "shape         weight  AICc      parameters",
        *(_candidate(each, chosen=each is fit.chosen) for each in fit.candidates),
        "",
        *_reference(found),
    ]


def _crossing(fit: Fit) -> str:
    at = "no chunk is" if fit.crossing is None else f"chunk {fit.crossing} is the first one"
    return f"crossing: {at} at or below half of the first one"


def _candidate(candidate: Candidate, *, chosen: bool) -> str:
    from math import isinf

    from tui.format import percent

    aicc = "n/a" if isinf(candidate.aicc) else f"{candidate.aicc:.1f}"
    parameters = ", ".join(f"{name} {value:.4g}" for name, value in candidate.parameters.items())
    mark = "  ← chosen" if chosen else ""
    return f"{candidate.shape:<12} {percent(candidate.weight):>7}  {aicc:<8}  {parameters}{mark}"


def _reference(found: FileFit) -> list[str]:
    numbers = found.fit.reference
    tau = "n/a, it does not fall" if numbers.exponential_tau is None else f"{numbers.exponential_tau:.2f} chunks"
    lines = [
        "as the reference counts:",
        f"  linear slope {numbers.linear_slope:+.6f} per chunk, exponential tau {tau}",
        f"  largest drop {numbers.max_single_drop:+.4f} after chunk {numbers.max_drop_at_chunk} of the series",
        f"  {numbers.initial_pressure:.4f} to {numbers.final_pressure:.4f} ({numbers.total_decay:+.4f}),"
        f" mean {numbers.mean:.4f}, std {numbers.std:.4f}, min {numbers.min:.4f}, max {numbers.max:.4f}",
    ]
    if found.collapse is None:
        return [*lines, "  entropy collapse n/a: no router entropy of these chunks"]
    first_last, early_late = found.collapse.first_last, found.collapse.early_late
    return [*lines, f"  entropy collapse {first_last:+.4f} first to last, {early_late:+.4f} first 30 % to last 30 %"]
