"""Numbers of a pruned model's experts in the whole model."""

from __future__ import annotations

from msgspec import UNSET

from moe_watch.routing.header import ModelInfo


def expert_ids(model: ModelInfo) -> list[list[int]] | None:
    """Return the number of each expert in the whole model `[L][E]`; None for a model that is not pruned."""
    ids = model.expert_ids
    if ids is UNSET or len(ids) != len(model.layers) or any(len(row) != model.experts for row in ids):
        return None
    return ids
