"""Importance of a model's experts from files of `moe-watch profile` and `moe-watch ablate`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from moe_watch.backends.system.regular_files import read_regular
from moe_watch.routing.arrays import Floats, Ints
from moe_watch.routing.errors import UserError, system_error
from moe_watch.routing.header import ModelInfo
from moe_watch.sessions.paths import importance_directory
from moe_watch.sessions.text import plural

ADVICE = "give a JSON file of `moe-watch profile` or `moe-watch ablate`"
LONGEST_FILE = 1 << 28
"""Bytes. An ablation of 94 layers of 512 experts has some 10 MB."""
MOST_STORED = 32
"""Files of one model in the data directory that are read, the newest ones."""

Amount = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=0, lt=1 << 62)]


class MeasuredExpert(msgspec.Struct, frozen=True):
    """One expert of an ablation file."""

    layer: int
    expert: Annotated[int, Meta(ge=0)]
    delta_surprisal: float


class ImportanceFile(msgspec.Struct, frozen=True):
    """Keys of both kinds of file that are used here; tables are by model layer index."""

    model: str | None = None
    fingerprint: str | None = None
    activation_counts: dict[int, list[Count]] | None = None
    weight_mass: dict[int, list[Amount | None]] | None = None
    saliency: dict[int, list[Amount | None]] | None = None
    experts: list[MeasuredExpert] | None = None


@dataclass(frozen=True)
class Importance:
    """Importance of each expert of one model `[L, E]`; a quantity that no file has is None.

    NaN where an expert was never routed (saliency) or not measured (damage).
    """

    model: str
    fingerprint: str | None = None
    count: Ints | None = None
    weight_mass: Floats | None = None
    saliency: Floats | None = None
    damage: Floats | None = None
    """Δ surprisal in nats with the expert switched off."""
    sources: Mapping[str, str] | None = None
    """Name of the file that each quantity is from."""

    @property
    def known(self) -> list[str]:
        """Names of the quantities that a file has."""
        return list(self.sources or ())

    def source(self, quantity: str) -> str:
        """Return the name of the file that a quantity is from; empty if none has it."""
        return (self.sources or {}).get(quantity, "")


def load_importance(paths: Iterable[Path], model: ModelInfo) -> Importance:
    """Read files for a model; a quantity that several files have is taken from the last one.

    Raises:
        UserError: a file cannot be read, is of neither kind, or is of another model.
    """
    return importance_of([(path.name, read_importance(path)) for path in paths], model)


def read_importance(path: Path) -> ImportanceFile:
    """Read one file.

    Raises:
        UserError: it cannot be read, or is of neither kind.
    """
    try:
        content = read_regular(path, LONGEST_FILE)
    except (OSError, ValueError) as error:
        raise system_error(path, error, failed="cannot be read", advice=ADVICE) from error
    try:
        found = msgspec.json.decode(content, type=ImportanceFile)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: neither a profile nor an ablation ({reason})", advice=ADVICE) from error
    if found.activation_counts is None and found.experts is None:
        raise UserError(f"{path}: neither a profile nor an ablation", advice=ADVICE)
    return found


def importance_of(files: Sequence[tuple[str, ImportanceFile]], model: ModelInfo) -> Importance:
    """Return the importance of a model's experts from files and their names.

    Raises:
        UserError: a file is of another model.
    """
    found = Importance(model.name, model.fingerprint)
    for name, file in files:
        _check_model(name, file, model)
        tables: dict[str, Floats | Ints] = {}
        for quantity, table in (("weight_mass", file.weight_mass), ("saliency", file.saliency)):
            if table is not None:
                tables[quantity] = np.array(_rows(name, table, model), np.float64)
        if file.activation_counts is not None:
            tables["count"] = np.array(_rows(name, file.activation_counts, model), np.int64)
        if file.experts is not None:
            tables["damage"] = _damage(name, file.experts, model)
        sources = {**(found.sources or {}), **dict.fromkeys(tables, name)}
        found = replace(found, sources=sources, **tables)  # type: ignore[arg-type]  # each has its own type
    return found


def stored_files(model: ModelInfo) -> list[Path]:
    """Return the files of a model in the data directory, the newest last; none for a model without a fingerprint."""
    if not model.fingerprint:
        return []
    try:
        found = [(path.stat().st_mtime, path) for path in importance_directory(model.fingerprint).glob("*.json")]
    except OSError:
        return []
    return [path for _, path in sorted(found)][-MOST_STORED:]


def stored_importance(model: ModelInfo) -> Importance:
    """Return the importance from the model's files in the data directory; files that cannot be used are left out."""
    found = []
    for path in stored_files(model):
        try:
            file = read_importance(path)
            importance_of([(path.name, file)], model)
        except UserError:
            continue
        found.append((path.name, file))
    return importance_of(found, model)


def _check_model(name: str, file: ImportanceFile, model: ModelInfo) -> None:
    """Refuse a file with another fingerprint; tables of another shape are refused where they are read."""
    if file.fingerprint and model.fingerprint and file.fingerprint != model.fingerprint:
        raise _other_model(name, file.model or "no name", model)


def _rows(name: str, table: Mapping[int, Sequence[float | None]], model: ModelInfo) -> list[Sequence[float | None]]:
    if sorted(table) != model.layers or any(len(row) != model.experts for row in table.values()):
        widths = {len(row) for row in table.values()}
        raise _other_model(name, f"{plural(len(table), 'layer')} × {max(widths, default=0)} experts", model)
    return [table[layer] for layer in model.layers]


def _damage(name: str, measured: Sequence[MeasuredExpert], model: ModelInfo) -> Floats:
    positions = {layer: at for at, layer in enumerate(model.layers)}
    found = np.full((len(model.layers), model.experts), np.nan)
    for each in measured:
        if each.layer not in positions or each.expert >= model.experts:
            raise _other_model(name, f"layer {each.layer}, expert {each.expert}", model)
        found[positions[each.layer], each.expert] = each.delta_surprisal
    return found


def _other_model(name: str, of: str, model: ModelInfo) -> UserError:
    shape = f"{plural(len(model.layers), 'layer')} × {model.experts} experts"
    return UserError(f"{name} is of another model ({of})", advice=f"{model.name} has {shape}; give a file of it")
