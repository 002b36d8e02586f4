"""Importance of a model's experts from files of `moe-watch profile` and `moe-watch ablate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from moe_watch.routing.arrays import Floats
from moe_watch.routing.errors import UserError
from moe_watch.routing.header import ModelInfo
from moe_watch.sessions.experts.ablation_file import damage_table, read_ablation
from moe_watch.sessions.experts.measured_files import kind_of
from moe_watch.sessions.experts.profile_file import LoadedProfile, read_profile
from moe_watch.sessions.results.ablation import AblationReport
from moe_watch.sessions.text import plural

ADVICE = "give a JSON file of `moe-watch profile` or `moe-watch ablate`"

ImportanceFile = LoadedProfile | AblationReport


@dataclass(frozen=True)
class Importance:
    """Importance of each expert of one model `[L, E]`; a quantity that no file has is None.

    NaN where an expert was never routed (saliency) or not measured (damage).
    """

    saliency: Floats | None = None
    damage: Floats | None = None
    """Δ surprisal in nats with the expert switched off."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Name of the file that each quantity is from."""

    @property
    def known(self) -> list[str]:
        """Names of the quantities that a file has."""
        return list(self.sources)

    def source(self, quantity: str) -> str:
        """Return the name of the file that a quantity is from; empty if none has it."""
        return self.sources.get(quantity, "")


def read_importance(path: Path) -> ImportanceFile:
    """Read one file.

    Raises:
        UserError: it cannot be read, or is of neither kind.
    """
    match kind_of(path):
        case "profile":
            return read_profile(path)
        case "ablation":
            return read_ablation(path)
        case None:
            raise UserError(f"{path}: neither a profile nor an ablation", advice=ADVICE)


def importance_of(files: Sequence[tuple[str, ImportanceFile]], model: ModelInfo) -> Importance:
    """Return the importance of a model's experts from files and their names.

    A quantity that several files have is from the last one.

    Raises:
        UserError: a file is of another model.
    """
    found = Importance()
    for name, file in files:
        if isinstance(file, LoadedProfile):
            profile = file.profile
            _check_model(name, profile.model, profile.fingerprint, file.layers, profile.num_experts, model)
            if file.sums.saliency is not None:
                found = replace(found, saliency=file.sums.saliency, sources={**found.sources, "saliency": name})
        else:
            _check_model(name, file.model, file.fingerprint, file.layers, file.experts_per_layer, model)
            found = replace(found, damage=damage_table(file), sources={**found.sources, "damage": name})
    return found


def _check_model(
    name: str, of: str, fingerprint: str | None, layers: Sequence[int], experts: int, model: ModelInfo
) -> None:
    """Refuse a file with another fingerprint, or with other layers or experts."""
    if fingerprint and model.fingerprint and fingerprint != model.fingerprint:
        raise _other_model(name, of or "no name", model)
    if list(layers) != model.layers or experts != model.experts:
        raise _other_model(name, _shape(len(layers), experts), model)


def _other_model(name: str, of: str, model: ModelInfo) -> UserError:
    shape = _shape(len(model.layers), model.experts)
    return UserError(f"{name} is of another model ({of})", advice=f"{model.name} has {shape}; give a file of it")


def _shape(layers: int, experts: int) -> str:
    return f"{plural(layers, 'layer')} × {experts} experts"
