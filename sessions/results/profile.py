"""Profile of a model's experts: usage, weight mass and saliency over given texts, and the stability of the rankings.

The first keys are the ones of the activation profiles that expert-pruning tools write and read; further keys follow.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

METRIC_VERSION = "v1.activation_count"
BlockName = Literal["example", "window", "tokens", "step"]


class RankingStability(Struct, frozen=True, kw_only=True):
    """Stability of one ranking of experts, by model layer index; lists have one number per item of `keep`."""

    same_set: Annotated[
        dict[str, list[float]],
        Meta(description="Share of bootstrap resamples in which exactly the same experts are kept."),
    ]
    overlap: Annotated[
        dict[str, list[float]],
        Meta(description="Share of the kept experts that a bootstrap resample keeps too; mean over resamples."),
    ]
    half_overlap: Annotated[
        dict[str, list[float]],
        Meta(description="Share of the kept experts that two random halves of the blocks agree on; mean over splits."),
    ]
    half_correlation: Annotated[
        dict[str, float | None],
        Meta(description="Spearman's ρ between random halves, mean over splits; null if all experts are equal."),
    ]


class GroupAgreement(Struct, frozen=True, kw_only=True):
    """Agreement of one ranking between groups of texts, by model layer index; mean over the pairs of groups."""

    overlap: Annotated[
        dict[str, list[float]], Meta(description="Share of the kept experts that both keep, per item of `keep`.")
    ]
    correlation: Annotated[dict[str, float | None], Meta(description="Spearman's ρ; null if all experts are equal.")]


class GroupPair(Struct, frozen=True, kw_only=True):
    """Agreement of two groups of texts."""

    a: Annotated[str, Meta(description="Name of the first group.")]
    b: Annotated[str, Meta(description="Name of the second group.")]
    correlation: Annotated[dict[str, float | None], Meta(description="By ranking: Spearman's ρ, mean over layers.")]


class ProfileStability(Struct, frozen=True, kw_only=True):
    """Stability of the rankings: within the texts, by resampling blocks of them, and across groups of texts."""

    block: Annotated[BlockName | None, Meta(description="Unit of resampling; null if there are only sums.")]
    blocks: Annotated[int, Meta(description="Number of blocks.")]
    resamples: Annotated[int, Meta(description="Number of bootstrap resamples.")]
    splits: Annotated[int, Meta(description="Number of random splits into halves.")]
    keep: Annotated[list[int], Meta(description="Numbers of experts kept per layer.")]
    chance: Annotated[
        list[float], Meta(description="Overlap of two random sets of this size, per item of `keep`: N over experts.")
    ]
    within: Annotated[dict[str, RankingStability], Meta(description="By ranking.")]
    across: Annotated[dict[str, GroupAgreement] | None, Meta(description="By ranking; null with a single group.")]
    pairs: Annotated[list[GroupPair], Meta(description="Every pair of groups.")]


class ProfileGroup(Struct, frozen=True, kw_only=True):
    """Part of the texts: a domain of a corpus, a corpus or a recording."""

    name: Annotated[str, Meta(description="Name of the domain, corpus or recording.")]
    examples: Annotated[int, Meta(description="Number of texts.")]
    tokens: Annotated[int, Meta(description="Number of tokens.")]
    activation_counts: Annotated[dict[str, list[int]], Meta(description="As for all texts.")]
    weight_mass: Annotated[dict[str, list[float]] | None, Meta(description="As for all texts.")]
    saliency_mass: Annotated[dict[str, list[float]] | None, Meta(description="As for all texts.")]


class ExpertProfile(Struct, frozen=True, kw_only=True):
    """Profile of a model's experts; lists by layer have one number per expert."""

    model: Annotated[str, Meta(description="Name of the model.")]
    calibration_corpus: Annotated[str, Meta(description="Files of the texts or recordings, separated by a comma.")]
    calibration_examples: Annotated[int, Meta(description="Number of texts, or of recordings.", ge=0)]
    calibration_tokens: Annotated[int, Meta(description="Number of evaluated tokens.", ge=0)]
    num_hidden_layers: Annotated[
        int | None, Meta(description="Number of all layers of the model; null if a recording does not state it.")
    ]
    num_experts: Annotated[int, Meta(description="Routed experts of a layer.", ge=1)]
    num_experts_per_tok: Annotated[
        int | list[int],
        Meta(description="Experts that a layer selects for a token; a list, one per MoE layer, where layers differ."),
    ]
    activation_counts: Annotated[
        dict[str, list[int]],
        Meta(description="By model layer index: selections of each expert. Layers without a router are absent."),
    ]
    metric_version: Annotated[str, Meta(description="Version of the keys up to here.")] = METRIC_VERSION
    tool: Annotated[str | None, Meta(description="Program that wrote the file.")] = None
    weight_mass: Annotated[
        dict[str, list[float]] | None,
        Meta(description="By layer: sum of the router weights with which each expert was applied; null if unknown."),
    ] = None
    saliency: Annotated[
        dict[str, list[float | None]] | None,
        Meta(
            description="By layer: mean of ‖weight · f(x)‖₂ over the tokens that select the expert (REAP); null for an "
            "expert that no token selects. The whole key is null if it was not measured."
        ),
    ] = None
    saliency_mass: Annotated[
        dict[str, list[float]] | None, Meta(description="By layer: the sum of the same; null if it was not measured.")
    ] = None
    router_entropy: Annotated[
        dict[str, float | None] | None,
        Meta(description="By layer: mean entropy of the router's probabilities over ln E; null if unknown."),
    ] = None
    rows: Annotated[
        dict[str, int] | None,
        Meta(description="By layer: tokens whose routing was observed. Counts sum to rows × experts per token."),
    ] = None
    never_routed: Annotated[
        dict[str, list[int]] | None, Meta(description="By layer: experts that no token selects, ascending.")
    ] = None
    expert_ids: Annotated[
        dict[str, list[int]] | None,
        Meta(
            description="Of a pruned model, by layer: number of each expert in the whole model; null for a whole one."
        ),
    ] = None
    fingerprint: Annotated[
        str | None, Meta(description="SHA-256 of the model's metadata, tensor table and size; null if unknown.")
    ] = None
    gate: Annotated[str | None, Meta(description="Gate of the routers; null if unknown.")] = None
    engine: Annotated[str | None, Meta(description="Engine that evaluated the texts; null if unknown.")] = None
    window: Annotated[
        int | None, Meta(description="Tokens of the longest window; null unless texts were evaluated.")
    ] = None
    corpus_sha256: Annotated[list[str], Meta(description="SHA-256 of each corpus.")] = []
    groups: Annotated[
        list[ProfileGroup], Meta(description="Domains, corpora or recordings; empty if there is only one.")
    ] = []
    stability: Annotated[
        ProfileStability | None, Meta(description="Stability of the rankings; null if it cannot be estimated.")
    ] = None
    warnings: Annotated[list[str], Meta(description="Limits of this profile, one line each.")] = []
    unavailable: Annotated[dict[str, str], Meta(description="Reason of each key that is null.")] = {}
