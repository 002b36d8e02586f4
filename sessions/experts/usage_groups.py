"""Usage of a model's experts in groups of texts: what a profile is made from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from msgspec import UNSET

from moe_watch.routing.experts.stability import MOST_BLOCKS
from moe_watch.routing.experts.sums import ExpertSums
from moe_watch.routing.header import ModelInfo
from moe_watch.sessions.text import UNKNOWN

Block = Literal["example", "window", "tokens", "step"]
"""Unit of resampling."""

BLOCK_NUMBERS = 1 << 25
"""Numbers in the blocks of all groups together: 256 MB."""
FEWEST_IN_GROUP = 16
"""Least bound of the blocks of one group."""
QUANTITIES = 3
"""Tables of a block: selections, router weights, norms."""


@dataclass(frozen=True, slots=True)
class ObservedModel:
    """Facts of a profiled model; None where they are unknown."""

    name: str
    layers: list[int]
    """Model layer index of each MoE layer, ascending."""
    experts: int
    k: list[int]
    """Experts per token of each MoE layer."""
    gate: str | None = None
    fingerprint: str | None = None
    expert_ids: list[list[int]] | None = None
    engine: str | None = None
    hidden_layers: int | None = None

    @classmethod
    def of(cls, model: ModelInfo, engine: str | None, hidden_layers: int | None = None) -> ObservedModel:
        """Return the facts of a header."""
        return cls(
            name=model.name,
            layers=model.layers,
            experts=model.experts,
            k=model.k_by_layer,
            gate=None if model.gate == UNKNOWN else model.gate,
            fingerprint=model.fingerprint,
            expert_ids=None if model.expert_ids is UNSET else model.expert_ids,
            engine=engine,
            hidden_layers=hidden_layers,
        )


@dataclass(frozen=True, slots=True)
class UsageGroup:
    """Usage over one group of texts: a domain, a corpus or a recording."""

    name: str
    examples: int
    """Number of texts."""
    tokens: int
    blocks: list[ExpertSums]
    """Sums of successive tokens; at least one."""


@dataclass(frozen=True, slots=True)
class ObservedUsage:
    """Usage of a model's experts over all groups."""

    model: ObservedModel
    corpus: str
    """Names of the files, separated by a comma."""
    groups: list[UsageGroup]
    """At least one."""
    block: Block | None
    """Unit of the blocks; None if they cannot be resampled: their number does not grow with the tokens."""
    warnings: list[str] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    """Reason of each quantity that is not there, by its key in a profile."""
    window: int | None = None
    corpus_sha256: list[str] = field(default_factory=list)


def blocks_of_group(layers: int, experts: int, groups: int) -> int:
    """Return the largest number of blocks that a group keeps, an even number, so that memory is bounded."""
    possible = BLOCK_NUMBERS // (max(1, layers * experts) * QUANTITIES * max(1, groups))
    return min(MOST_BLOCKS, max(FEWEST_IN_GROUP, possible // 2 * 2))
