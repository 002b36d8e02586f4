"""File that `ablate` writes."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import numpy as np

from moe_watch.routing.arrays import Floats
from moe_watch.routing.errors import UserError
from moe_watch.sessions.experts.measured_files import decoded_file
from moe_watch.sessions.results.ablation import AblationReport

ADVICE = "give the file that `moe-watch ablate -o` wrote"


def read_ablation(path: Path) -> AblationReport:
    """Read the result of `ablate`.

    Raises:
        UserError: the file cannot be read, or is not the result of a finished ablation.
    """
    found = decoded_file(path, AblationReport, "an ablation", advice=ADVICE)
    if fault := _fault(found):
        raise UserError(f"{path}: not an ablation ({fault})", advice=ADVICE)
    return found


def to_bytes(report: AblationReport) -> bytes:
    """Return the file of a report: indented JSON."""
    return msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n"


def damage_table(report: AblationReport) -> Floats:
    """Return Δ surprisal in nats `[L, E]`; NaN for an expert that was not measured."""
    places = {layer: at for at, layer in enumerate(report.layers)}
    found = np.full((len(report.layers), report.experts_per_layer), np.nan)
    for each in report.experts:
        found[places[each.layer], each.expert] = each.delta_surprisal
    return found


def _fault(report: AblationReport) -> str:
    """Return the first contradiction in a report; empty if there is none."""
    if not report.experts:
        return "no expert was measured"
    seen: set[tuple[int, int]] = set()
    layers = set(report.layers)
    for each in report.experts:
        place = f"layer {each.layer}, expert {each.expert}"
        if each.layer not in layers or not 0 <= each.expert < report.experts_per_layer:
            return f"{place} is not in the model"
        if (each.layer, each.expert) in seen:
            return f"{place} is there twice"
        if each.tokens < 0 or not (math.isfinite(each.delta_surprisal) and math.isfinite(each.kl)):
            return f"{place} has an impossible number"
        seen.add((each.layer, each.expert))
    return ""
