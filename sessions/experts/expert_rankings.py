"""Rankings of a model's experts for pruning: from a profile, an ablation, recordings or counts, or at random."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from moe_watch.backends.pruning.experts_of_model import PrunableModel
from moe_watch.backends.system.regular_files import open_regular
from moe_watch.routing.arrays import Floats
from moe_watch.routing.errors import UserError, system_error
from moe_watch.routing.experts.sums import ExpertSums, Ranking, total
from moe_watch.sessions.experts.ablation_file import read_ablation
from moe_watch.sessions.experts.profile_file import is_profile, read_profile
from moe_watch.sessions.experts.recorded_usage import usage_of_files
from moe_watch.sessions.imports.traces import ImportOptions
from moe_watch.sessions.results.ablation import AblationReport
from moe_watch.sessions.results.pruning import PruneBy

QUANTITIES: dict[PruneBy, Ranking] = {"count": "count", "weight": "weight_mass", "saliency": "saliency"}
SOURCES = {
    "count": "a profile, a recording, imported counts or an importance matrix",
    "weight": "a profile or a recording",
    "saliency": "a profile made with `moe-watch profile MODEL --corpus FILE --saliency`",
    "damage": "an ablation made with `moe-watch ablate MODEL --experts all -o FILE`",
}
"""Files that have each quantity."""
BEGINNING = 1 << 16
"""Bytes by which the kind of a file is recognized."""
STEP = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedExperts:
    """Values by which experts are ranked, and their usage as far as it is known."""

    values: Floats
    """`[L, E]`, higher is kept; NaN for an expert that no token selects."""
    sums: ExpertSums | None = None
    """Usage over the tokens of the ranking; None if it is not known."""
    path: Path | None = None
    sha256: str | None = None
    seed: int | None = None
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    """Content of a file, of any kind."""

    model: str
    fingerprint: str | None
    layers: Sequence[int]
    experts: int
    sums: ExpertSums
    damage: Floats | None = None
    """`[L, E]`; NaN for an expert that was not measured."""
    expert_ids: Sequence[Sequence[int]] | None = None
    """Of a pruned model `[L][E]`: numbers in the whole model; None for a whole model, or if the file has none."""
    warnings: list[str] = field(default_factory=list)


def random_ranking(model: PrunableModel, seed: int, usage: Path | None, *, same_weights: bool) -> RankedExperts:
    """Return random values: every set of experts is equally likely, independently in each layer.

    Args:
        model: model whose experts are ranked.
        seed: seed of the draw.
        usage: file with the usage of the experts, or None.
        same_weights: as for `read_ranking`.

    Raises:
        UserError: the file cannot be read, or is of another model.
    """
    values: Floats = np.random.default_rng(seed).random((len(model.layers), model.experts))
    if usage is None:
        return RankedExperts(values=values, seed=seed)
    measured = _read_checked(usage, model, same_weights=same_weights)
    return RankedExperts(
        values=values,
        seed=seed,
        sums=measured.sums,
        path=usage,
        sha256=_digest(usage),
        warnings=measured.warnings,
    )


def read_ranking(path: Path, by: PruneBy, model: PrunableModel, *, same_weights: bool) -> RankedExperts:
    """Read a ranking from a file.

    Args:
        path: the file.
        by: quantity of the ranking.
        model: model whose experts are ranked.
        same_weights: accept a file of a model with another name, as another form of the same weights.

    Raises:
        UserError: the file cannot be read, lacks the quantity, or is of another model.
    """
    measured = _read_checked(path, model, same_weights=same_weights)
    values = measured.damage if by == "damage" else measured.sums.ranking(QUANTITIES[by])
    if values is None:
        raise UserError(f"{path} has no {_named(by)} of the experts", advice=f"give {SOURCES[by]}")
    return RankedExperts(values=values, sums=measured.sums, path=path, sha256=_digest(path), warnings=measured.warnings)


def _named(by: PruneBy) -> str:
    return "weight mass" if by == "weight" else by


def _read_checked(path: Path, model: PrunableModel, *, same_weights: bool) -> _Measured:
    """Read a file of this model, in which all experts were measured."""
    measured = _read(path)
    warnings = [*measured.warnings, *_check_model(path, measured, model, same_weights=same_weights)]
    if measured.damage is not None:
        _check_all_measured(path, measured.damage, measured.layers)
    return replace(measured, warnings=warnings)


def _read(path: Path) -> _Measured:
    try:
        with open_regular(path) as file:
            start = file.read(BEGINNING)
    except (OSError, ValueError) as error:
        advice = "give a profile, an ablation, a recording or an importance matrix"
        raise system_error(path, error, failed="cannot be read", advice=advice) from error
    if is_profile(start):
        found = read_profile(path)
        profile = found.profile
        return _Measured(
            model=profile.model,
            fingerprint=profile.fingerprint,
            layers=found.layers,
            experts=profile.num_experts,
            sums=found.sums,
            expert_ids=None if profile.expert_ids is None else list(profile.expert_ids.values()),
            warnings=found.warnings,
        )
    if b'"delta_surprisal"' in start:
        return _of_ablation(read_ablation(path))
    return _of_usage(path)


def _of_usage(path: Path) -> _Measured:
    """Read a recording, or counts of another program."""
    usage = usage_of_files([path], ImportOptions())
    return _Measured(
        model=usage.model.name,
        fingerprint=usage.model.fingerprint,
        layers=usage.model.layers,
        experts=usage.model.experts,
        sums=total(block for group in usage.groups for block in group.blocks),
        expert_ids=usage.model.expert_ids,
        warnings=usage.warnings,
    )


def _of_ablation(report: AblationReport) -> _Measured:
    shape = len(report.layers), report.experts_per_layer
    places = {layer: at for at, layer in enumerate(report.layers)}
    damage, norms, weights = (np.full(shape, np.nan) for _ in range(3))
    counts = np.zeros(shape, np.int64)
    for each in report.experts:
        at = places[each.layer], each.expert
        damage[at], counts[at] = each.delta_surprisal, each.tokens
        weights[at] = np.nan if each.weight_mass is None else each.weight_mass
        norms[at] = np.nan if each.saliency_mass is None else each.saliency_mass
    return _Measured(
        model=report.model,
        fingerprint=report.fingerprint,
        layers=report.layers,
        experts=report.experts_per_layer,
        sums=ExpertSums(
            np.zeros(len(report.layers), np.int64),
            counts,
            None if np.isnan(weights).any() else weights,
            None if np.isnan(norms).any() else norms,
        ),
        damage=damage,
    )


def _check_model(path: Path, measured: _Measured, model: PrunableModel, *, same_weights: bool) -> list[str]:
    """Check that a file is of this model, and return warnings.

    Raises:
        UserError: it has other layers or experts, or another name and another fingerprint.
    """
    if list(measured.layers) != model.layers or measured.experts != model.experts:
        raise UserError(
            f"{path} is of {measured.model}, with {len(measured.layers)} layers × {measured.experts} experts",
            advice=f"{model.name} has {len(model.layers)} × {model.experts}: give a file of this model",
        )
    if measured.fingerprint == model.fingerprint:
        return []
    own = None if model.record is None else [model.record.kept.get(layer) for layer in model.layers]
    if measured.expert_ids is not None and list(map(list, measured.expert_ids)) != own:
        raise UserError(
            f"{path} is of {measured.model}, which keeps other experts of the whole model than {model.name}",
            advice="give a file of this model",
        )
    if measured.fingerprint is None:
        return [f"{path} does not state its model's fingerprint: only layers and experts were compared"]
    if measured.model == model.name or same_weights:
        return [f"{path} was made with another file of the model ({measured.model})"]
    raise UserError(
        f"{path} is of {measured.model}, another model than {model.name}",
        advice="give a file of this model, or add --same-weights if it is another form of the same weights",
    )


def _check_all_measured(path: Path, damage: Floats, layers: Sequence[int]) -> None:
    for layer, row in zip(layers, damage, strict=True):
        if (measured := int((~np.isnan(row)).sum())) < len(row):
            raise UserError(
                f"{path} has the damage of {measured} of {len(row)} experts in layer {layer}",
                advice="measure all: `moe-watch ablate` without --layers and --experts",
            )


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(STEP):
            digest.update(block)
    return digest.hexdigest()
