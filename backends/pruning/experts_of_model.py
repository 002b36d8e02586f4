"""Routed experts of a model as its files have them, without an engine, and the refusals before anything is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from moe_watch.backends.prune_record import PruneRecord
from moe_watch.routing.errors import UserError
from moe_watch.routing.router.masks import ExpertGroups

LONGEST_NAME = 100
"""Characters of a tensor's name in a message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrunableModel:
    """Shape of a model whose experts can be removed."""

    name: str
    path: Path
    """File or folder."""
    layers: list[int]
    """Model layer index of each MoE layer that takes part in a generation, ascending."""
    ahead: list[str]
    """Layers with experts that only predict further tokens (MTP): no generation evaluates their routers."""
    experts: int
    chosen: int
    """Experts per token, of the layer that selects most."""
    groups: ExpertGroups | None
    bytes: int
    """Size of all files together."""
    expert_bytes: int
    """Bytes of all routed experts and of their routers together; each has an equal share."""
    fingerprint: str
    """As in a header's `ModelInfo.fingerprint`."""
    record: PruneRecord | None
    """Set if the model was pruned before."""

    def bytes_with(self, keep: int) -> int:
        """Return the expected size with this number of experts; headers change by a few bytes more."""
        return self.bytes - self.expert_bytes // self.experts * (self.experts - keep)

    def first_of_groups(self, keep: int) -> list[int]:
        """Return the experts that a layer without a ranking keeps: the first ones of every group."""
        count = self.groups.count if self.groups is not None else 1
        size = self.experts // count
        return [group * size + place for group in range(count) for place in range(keep // count)]

    def in_whole_model(self, kept: Mapping[int, Sequence[int]]) -> dict[int, list[int]]:
        """Return the numbers in the whole model of experts of this one, which may be pruned itself."""
        before = self.record.kept if self.record is not None else {}
        return {
            layer: [before[layer][number] if layer in before else number for number in numbers]
            for layer, numbers in kept.items()
        }

    @property
    def whole_experts(self) -> int:
        """Number of experts of the whole model."""
        return self.record.experts if self.record is not None else self.experts


def unknown_tensor(name: str, tensor: str) -> UserError:
    """Return the error for a tensor that may have an axis of experts."""
    return UserError(
        f"{name} has the tensor {tensor[:LONGEST_NAME]!r}, which this version does not prune: a file without it could "
        "be wrong",
        advice="no file was written; prune another conversion of the model",
    )


def no_experts(name: str) -> UserError:
    """Return the error for a dense model."""
    return UserError(f"{name} is a dense model: it has no experts to prune", advice="give an MoE model")


def wrong_axis(name: str, tensor: str, shape: Sequence[int], experts: int) -> UserError:
    """Return the error for a layer with another number of experts."""
    return UserError(
        f"tensor {tensor[:LONGEST_NAME]!r} of {name} has shape {tuple(shape)}, which does not fit {experts} experts",
        advice="layers with different numbers of experts cannot be pruned",
    )
