"""Result of `prune`: the experts that remain and leave in each layer, and what leaves with them."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

PruneBy = Literal["count", "weight", "saliency", "damage", "random"]


class PrunedLayer(Struct, frozen=True, kw_only=True):
    """One MoE layer. Experts have their numbers in the given model, ascending."""

    layer: Annotated[int, Meta(description="Index of the MoE layer in the model.")]
    kept: Annotated[list[int], Meta(description="Experts that remain. The new model numbers them from 0.")]
    dropped: Annotated[list[int], Meta(description="Experts that leave.")]
    count_lost: Annotated[
        float | None,
        Meta(description="Share of the layer's selections that went to `dropped`, 0 to 1; null if not known."),
    ]
    weight_lost: Annotated[
        float | None,
        Meta(description="Share of the layer's weight mass that went to `dropped`, 0 to 1; null if not known."),
    ]
    never_routed: Annotated[
        list[int] | None,
        Meta(description="Experts that no token of the ranking selects, kept or not; null if counts are not known."),
    ]


class PruneReport(Struct, frozen=True, kw_only=True):
    """Pruning of a model; with `--dry-run`, what it would be."""

    keep: Annotated[int, Meta(description="Experts that each layer keeps.")]
    by: Annotated[PruneBy, Meta(description="Quantity of the ranking, as given with `--by`.")]
    layers: Annotated[list[PrunedLayer], Meta(description="MoE layers in order.")]
    count_lost: Annotated[float | None, Meta(description="The same share over all layers together.")]
    weight_lost: Annotated[float | None, Meta(description="The same share over all layers together.")]
    model: Annotated[str, Meta(description="Name of the given model.")]
    experts: Annotated[int, Meta(description="Routed experts of a layer before.")]
    ranking: Annotated[str | None, Meta(description="Path of the file given with `--from`; null for a random ranking.")]
    seed: Annotated[int | None, Meta(description="Seed of a random ranking; null for others.")]
    expert_ids: Annotated[
        dict[str, list[int]] | None,
        Meta(description="By layer: `kept` by the numbers in the whole model; null unless the given model is pruned."),
    ]
    bytes_before: Annotated[int, Meta(description="Bytes of the model's files.")]
    bytes_after: Annotated[int, Meta(description="Bytes of the new files; of a dry run, expected within some kB.")]
    output: Annotated[str | None, Meta(description="Path of the new file or folder; null for a dry run.")]
    warnings: Annotated[list[str], Meta(description="Limits of the ranking or of the new model, one line each.")]
