"""Record of a pruning in a model's files: the experts of the whole model that remain, and the steps that led there.

A GGUF file has it in its metadata (`moe_watch.prune.…`), a folder in its config.json (`moe_watch_prune`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import UNSET, UnsetType

from moe_watch.backends.model_files.config import Config, read_config
from moe_watch.backends.model_files.gguf import GgufFile, read_gguf

GGUF_PREFIX = "moe_watch.prune."
"""Keys: `experts`, `layers`, `kept.<layer>` and `history`, the steps as JSON."""
CONFIG_KEY = "moe_watch_prune"
MOST_EXPERTS = 1 << 16
"""Largest number of experts of the whole model, as in a profile."""


class PruneStep(msgspec.Struct, frozen=True, kw_only=True):
    """One pruning: its ranking and the files it was made from."""

    by: str
    """Quantity of the ranking."""
    keep: int
    """Experts that each layer keeps."""
    ranking: str | None = None
    """Name of the file with the ranking; None for a random one."""
    ranking_sha256: str | None = None
    seed: int | None = None
    """Seed of a random ranking."""
    source: str
    """Name of the model that was pruned."""
    source_sha256: dict[str, str]
    """SHA-256 of each of its files, by the file's name."""


class PruneRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Experts of a pruned model by their numbers in the whole one."""

    experts: int
    """Number of experts of the whole model."""
    kept: dict[int, list[int]]
    """By model layer index: number of each expert in the whole model, ascending."""
    history: list[PruneStep]
    """First step first."""

    @property
    def is_consistent(self) -> bool:
        """Return whether all layers keep the same number of distinct experts of the whole model."""
        return (
            self.experts <= MOST_EXPERTS
            and len({len(numbers) for numbers in self.kept.values()}) == 1
            and all(len(set(numbers)) == len(numbers) > 0 for numbers in self.kept.values())
            and all(0 <= number < self.experts for numbers in self.kept.values() for number in numbers)
        )

    def with_digests(self, digests: dict[str, str]) -> PruneRecord:
        """Return the record with the SHA-256 of the last step's source files, by name."""
        *before, last = self.history
        step = msgspec.structs.replace(last, source_sha256=digests)
        return msgspec.structs.replace(self, history=[*before, step])


def record_at(path: Path) -> PruneRecord | None:
    """Return the record of a GGUF file or a model folder; None if it has none, or a damaged one.

    Raises:
        UserError: the file or its config.json cannot be read.
    """
    if path.is_dir():
        return record_of_config(read_config(path))
    return record_of_gguf(read_gguf(path, digests=False))


def record_of_gguf(file: GgufFile) -> PruneRecord | None:
    """Return the record of a GGUF file; None if it has none, or a damaged one."""
    layers = file.arrays.get(f"{GGUF_PREFIX}layers")
    if layers is None:
        return None
    kept = {layer: list(file.arrays.get(f"{GGUF_PREFIX}kept.{layer}", ())) for layer in layers}
    try:
        history = msgspec.json.decode(str(file.metadata.get(f"{GGUF_PREFIX}history", "[]")), type=list[PruneStep])
        experts = msgspec.convert(file.metadata.get(f"{GGUF_PREFIX}experts"), int)
    except (msgspec.MsgspecError, RecursionError):
        return None
    record = PruneRecord(experts=experts, kept=kept, history=history)
    return record if record.is_consistent else None


def record_of_config(config: Config) -> PruneRecord | None:
    """Return the record of a folder's config.json; None if it has none, or a damaged one."""
    try:
        record = msgspec.convert(config.get(CONFIG_KEY), PruneRecord | None, strict=False)
    except (msgspec.MsgspecError, RecursionError):
        return None
    return record if record is not None and record.is_consistent else None


def fitting(record: PruneRecord | None, layers: Sequence[int], experts: int) -> PruneRecord | None:
    """Return the record of a model of this shape; None without one, and if it is of another shape.

    Args:
        record: the record in the model's files, or None.
        layers: model layer index of each MoE layer.
        experts: experts of each layer.
    """
    if record is None or sorted(record.kept) != sorted(layers):
        return None
    return record if all(len(numbers) == experts for numbers in record.kept.values()) else None


def text_of(name: str) -> str:
    """Return the name of a file as text: bytes that are not UTF-8 are replaced."""
    return name.encode(errors="surrogateescape").decode(errors="replace")


def expert_ids(record: PruneRecord | None, layers: Sequence[int], experts: int) -> list[list[int]] | UnsetType:
    """Return `ModelInfo.expert_ids` `[L][E]`; unset for a whole model, and if the record is of another shape."""
    if record is None or not layers:
        return UNSET
    found = [record.kept.get(layer, []) for layer in layers]
    return found if all(len(numbers) == experts for numbers in found) else UNSET
