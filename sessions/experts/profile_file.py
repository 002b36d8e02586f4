"""Profiles as files: written whole or not at all, and read from any tool that writes the reference's keys.

A profile is untrusted: any content gives a checked profile, or a `UserError` that names the fault.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from moe_watch.routing.arrays import Floats
from moe_watch.routing.errors import UserError, system_error
from moe_watch.routing.experts.sums import ExpertSums
from moe_watch.sessions.experts.measured_files import decoded_file
from moe_watch.sessions.paths import replace_file
from moe_watch.sessions.results.profile import METRIC_VERSION, ExpertProfile

MAX_LAYER = 1 << 20
MAX_EXPERTS = 1 << 16
LARGEST = 2**53
"""Largest count: every whole number up to it is exact as a 64-bit float."""
LARGEST_AMOUNT = 1e200
"""Largest weight mass or saliency: products and sums of these stay finite."""
ADVICE = "give a profile with activation_counts, as `moe-watch profile -o` writes it"


@dataclass(frozen=True, slots=True)
class LoadedProfile:
    """A profile of a file, checked, with its numbers as arrays."""

    profile: ExpertProfile
    layers: list[int]
    """Model layer index of each MoE layer, ascending. A layer without any selection has no router."""
    sums: ExpertSums
    """Of these layers."""
    warnings: list[str]
    """Contradictions in it, one line each."""


def read_profile(path: Path) -> LoadedProfile:
    """Read a profile.

    Raises:
        UserError: the file cannot be read, is not a profile, or has a list of a wrong length or an impossible number.
    """
    found = decoded_file(path, ExpertProfile, "a profile", advice=ADVICE)
    return loaded(found, str(path))


def loaded(profile: ExpertProfile, where: str) -> LoadedProfile:
    """Check a profile and return it with its arrays.

    Args:
        profile: the decoded file.
        where: its name in messages.

    Raises:
        UserError: a list has a wrong length, or a number is impossible.
    """
    if fault := next(_faults(profile), None):
        raise UserError(f"{where}: not a profile ({fault})", advice=ADVICE)
    names = sorted(profile.activation_counts, key=int)
    counts = {name: profile.activation_counts[name] for name in names}
    used = [name for name in names if any(counts[name])]
    if not used:
        raise UserError(f"{where}: no expert is selected in it", advice=ADVICE)
    warnings = [f"{where}: {each}" for each in _contradictions(profile, names, used)]
    return LoadedProfile(profile, [int(name) for name in used], _sums(profile, names, used), warnings)


def _faults(profile: ExpertProfile) -> Iterator[str]:
    """Yield the reasons why a profile cannot be used."""
    counts, experts = profile.activation_counts, profile.num_experts
    if profile.metric_version != METRIC_VERSION:
        yield f"metric_version is {profile.metric_version[:40]!r}, not {METRIC_VERSION!r}"
    if not counts:
        yield "activation_counts is empty"
    if experts > MAX_EXPERTS:
        yield f"num_experts is {experts}"
    for name, row in counts.items():
        if not (name.isascii() and name.isdigit() and str(int(name[:8])) == name and int(name) <= MAX_LAYER):
            yield f"a layer called {name[:40]!r}"
        if len(row) != experts:
            yield f"layer {name[:8]} has {len(row)} counts, but num_experts is {experts}"
        if row and not 0 <= min(row) <= max(row) <= LARGEST:
            yield f"layer {name[:8]} has an impossible count"
    k = profile.num_experts_per_tok
    each_k = [k] * len(counts) if isinstance(k, int) else k
    if len(each_k) != len(counts) or not all(1 <= each <= experts for each in each_k):
        yield f"num_experts_per_tok does not fit {experts} experts in {len(counts)} layers"
    yield from _faults_of_quantities(profile)


def _faults_of_quantities(profile: ExpertProfile) -> Iterator[str]:
    counts = profile.activation_counts
    quantities: dict[str, Mapping[str, Sequence[float | None]] | None] = {
        "weight_mass": profile.weight_mass,
        "saliency": profile.saliency,
        "saliency_mass": profile.saliency_mass,
    }
    for key, table in quantities.items():
        if table is None:
            continue
        if table.keys() != counts.keys():
            yield f"{key} has other layers than activation_counts"
        for name, row in table.items():
            if len(row) != profile.num_experts:
                yield f"{key} of layer {name[:8]} has {len(row)} numbers, but num_experts is {profile.num_experts}"
            elif not all(value is None or 0 <= value <= LARGEST_AMOUNT for value in row):
                yield f"{key} of layer {name[:8]} has an impossible number"
            elif key == "saliency" and any(
                (value is None) != (count == 0) for value, count in zip(row, counts[name], strict=True)
            ):
                yield f"saliency of layer {name[:8]} is null for a selected expert, or a number for one never selected"
    if profile.rows is not None:
        if profile.rows.keys() != counts.keys():
            yield "rows has other layers than activation_counts"
        elif not all(0 <= each <= LARGEST for each in profile.rows.values()):
            yield "rows has an impossible number"
    if profile.expert_ids is not None and not all(
        name in counts and len(ids) == profile.num_experts for name, ids in profile.expert_ids.items()
    ):
        yield "expert_ids does not fit activation_counts"


def _contradictions(profile: ExpertProfile, names: Sequence[str], used: Sequence[str]) -> Iterator[str]:
    """Yield the contradictions in a profile that can be used."""
    by_layer = _k_by_layer(profile, names)
    for name in used:
        count, k = sum(profile.activation_counts[name]), by_layer[name]
        rows = None if profile.rows is None else profile.rows[name]
        if rows is not None and count != rows * k:
            yield f"counts of layer {name} sum to {count:,}, not to rows × experts per token ({rows:,} × {k})"
        elif rows is None and count != profile.calibration_tokens * k:
            tokens = profile.calibration_tokens
            yield f"counts of layer {name} sum to {count:,}, not to tokens × experts per token ({tokens:,} × {k})"
    if without := [name for name in names if name not in used]:
        yield f"no selection in layer {', '.join(without[:8])}{', …' if len(without) > 8 else ''}: taken as dense"
    if profile.num_hidden_layers is not None and int(names[-1]) >= profile.num_hidden_layers:
        yield f"it has a layer {names[-1]}, but num_hidden_layers is {profile.num_hidden_layers}"


def _k_by_layer(profile: ExpertProfile, names: Sequence[str]) -> dict[str, int]:
    k = profile.num_experts_per_tok
    return dict(zip(names, [k] * len(names) if isinstance(k, int) else k, strict=True))


def _sums(profile: ExpertProfile, names: Sequence[str], used: Sequence[str]) -> ExpertSums:
    by_layer = _k_by_layer(profile, names)
    counts = np.array([profile.activation_counts[name] for name in used], np.int64)
    rows = (
        [sum(profile.activation_counts[name]) // by_layer[name] for name in used]
        if profile.rows is None
        else [profile.rows[name] for name in used]
    )
    norms = _table(profile.saliency_mass, used)
    if norms is None and (means := _table(profile.saliency, used)) is not None:
        norms = np.where(counts > 0, means, 0.0) * counts
    entropy = profile.router_entropy
    known = None if entropy is None else np.array([_number(entropy.get(name)) for name in used])
    return ExpertSums(
        np.array(rows, np.int64),
        counts,
        _table(profile.weight_mass, used),
        norms,
        None if known is None else known * np.array(rows),
    )


def _table(table: Mapping[str, Sequence[float | None]] | None, used: Sequence[str]) -> Floats | None:
    return None if table is None else np.array([[_number(each) for each in table[name]] for name in used])


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def to_bytes(profile: ExpertProfile) -> bytes:
    """Return the content of a profile's file: one line per key, and per layer where a key has layers."""
    found = msgspec.to_builtins(profile)
    lines = [f"  {json.dumps(key)}: {_written(value)}" for key, value in found.items()]
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def _written(value: object) -> str:
    if isinstance(value, dict) and value and all(isinstance(each, list) for each in value.values()):
        inside = ",\n".join(f"    {json.dumps(key)}: {json.dumps(each)}" for key, each in value.items())
        return "{\n" + inside + "\n  }"
    return json.dumps(value, allow_nan=False)


def write_profile(profile: ExpertProfile, path: Path) -> None:
    """Write a profile, under a temporary name first.

    Raises:
        UserError: it cannot be written; the old content of the file remains.
    """
    try:
        replace_file(path, to_bytes(profile))
    except (OSError, ValueError) as error:
        advice = "choose another place with --output"
        raise system_error(path, error, failed="cannot be written", advice=advice) from error
