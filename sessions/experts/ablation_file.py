"""Reader of the file that `ablate` writes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import msgspec

from moe_watch.backends.system.regular_files import read_regular
from moe_watch.routing.errors import UserError, system_error
from moe_watch.sessions.results.ablation import AblationReport

MAX_BYTES = 1 << 28
"""Size limit of a file; 100,000 experts take some 40 MB."""
ADVICE = "give the file that `moe-watch ablate -o` wrote"


def read_ablation(path: Path) -> AblationReport:
    """Read the result of `ablate`.

    Raises:
        UserError: the file cannot be read, or is not the result of a finished ablation.
    """
    try:
        content = read_regular(path, MAX_BYTES)
    except (OSError, ValueError) as error:
        raise system_error(path, error, failed="cannot be read", advice=ADVICE) from error
    try:
        found = msgspec.json.decode(content, type=AblationReport)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: not an ablation ({reason})", advice=ADVICE) from error
    if fault := _fault(found):
        raise UserError(f"{path}: not an ablation ({fault})", advice=ADVICE)
    return found


def damage_by_expert(report: AblationReport) -> Mapping[tuple[int, int], float]:
    """Return Δ surprisal in nats by model layer index and expert, of the measured experts."""
    return {(each.layer, each.expert): each.delta_surprisal for each in report.experts}


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
