"""Result of `ablate`: the damage of switching off each expert alone."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from moe_watch.routing.results import Interval


class ScoredText(Struct, frozen=True, kw_only=True):
    """Tokens over which a model was measured."""

    kind: Annotated[Literal["corpus", "session"], Meta(description="Corpus, or tokens of a recorded session.")]
    name: Annotated[str, Meta(description="Name of the file.")]
    sha256: Annotated[str, Meta(description="SHA-256 of all windows' token ids (little-endian 64-bit integers).")]
    windows: Annotated[int, Meta(description="Number of windows; each is evaluated in an empty context.")]


class ExpertDamage(Struct, frozen=True, kw_only=True):
    """Damage of switching off one expert, and its usage over the same tokens with all experts on."""

    layer: Annotated[int, Meta(description="Index of the MoE layer in the model.")]
    expert: Annotated[int, Meta(description="Number of the expert.")]
    tokens: Annotated[int, Meta(description="Tokens that select the expert.")]
    delta_surprisal: Annotated[
        float, Meta(description="Mean over tokens of surprisal without the expert minus surprisal with it, in nats.")
    ]
    interval: Annotated[
        Interval | None,
        Meta(description="95 % interval of `delta_surprisal`; null if too few blocks of tokens are affected."),
    ]
    kl: Annotated[
        float, Meta(description="Mean over tokens of KL(with the expert ‖ without it) of the next token, in nats.")
    ]
    kl_interval: Annotated[Interval | None, Meta(description="95 % interval of `kl`; null as for `interval`.")]
    p: Annotated[float, Meta(description="Two-sided p of `delta_surprisal` = 0, by the bootstrap of the interval.")]
    p_corrected: Annotated[float, Meta(description="`p` corrected over all measured experts by Holm's method.")]
    weight_mass: Annotated[
        float | None, Meta(description="Sum of its router weights over these tokens; null if the gate is unknown.")
    ]
    saliency: Annotated[
        float | None,
        Meta(description="REAP saliency: mean of ‖weight · f(x)‖₂ over its tokens; null if no token selects it."),
    ]
    saliency_mass: Annotated[
        float | None, Meta(description="Sum of ‖weight · f(x)‖₂ over its tokens; null if it was not measured.")
    ]


class RankCorrelationResult(Struct, frozen=True, kw_only=True):
    """Spearman's ρ of a ranking with the measured damage. Intervals: 95 %, over tokens; the experts are fixed."""

    pooled: Annotated[
        float | None, Meta(description="ρ over the experts of all layers; null for fewer than 3, or equal values.")
    ]
    pooled_interval: Annotated[Interval | None, Meta(description="Interval of `pooled`.")]
    within_layers: Annotated[
        float | None, Meta(description="Mean over layers of ρ over the layer's experts; null as for `pooled`.")
    ]
    within_layers_interval: Annotated[Interval | None, Meta(description="Interval of `within_layers`.")]


class RankingResult(Struct, frozen=True, kw_only=True):
    """Agreement of one ranking of experts with both measures of damage."""

    delta_surprisal: Annotated[RankCorrelationResult, Meta(description="With `delta_surprisal`.")]
    kl: Annotated[RankCorrelationResult, Meta(description="With `kl`.")]


class RankingDifference(Struct, frozen=True, kw_only=True):
    """Difference of two rankings' ρ with `delta_surprisal`, paired over the same resamples of tokens."""

    better: Annotated[str, Meta(description="Ranking with the larger ρ.")]
    worse: Annotated[str, Meta(description="Ranking with the smaller ρ.")]
    within_layers: Annotated[float, Meta(description="Difference of ρ within layers.")]
    interval: Annotated[Interval, Meta(description="95 % interval; if it contains 0, the two do not differ.")]


class SplitHalf(Struct, frozen=True, kw_only=True):
    """Spearman's ρ of the damage on the first half of the tokens with the damage on the second half."""

    pooled: Annotated[float | None, Meta(description="Over the experts of all layers; null if it is undefined.")]
    within_layers: Annotated[float | None, Meta(description="Mean over layers; null if it is undefined.")]


class SplitHalves(Struct, frozen=True, kw_only=True):
    """Stability of both measures of damage."""

    delta_surprisal: Annotated[SplitHalf, Meta(description="Of `delta_surprisal`.")]
    kl: Annotated[SplitHalf, Meta(description="Of `kl`.")]


class AblationControl(Struct, frozen=True, kw_only=True):
    """Another expert to compare the most damaging one with, over the same tokens."""

    layer: Annotated[int, Meta(description="Index of its MoE layer in the model.")]
    expert: Annotated[int, Meta(description="Number of the expert.")]
    tokens: Annotated[int, Meta(description="Tokens that select it.")]
    delta_surprisal: Annotated[float, Meta(description="Its damage, in nats.")]
    difference: Annotated[float, Meta(description="Damage of the most damaging expert minus its damage, in nats.")]
    difference_interval: Annotated[Interval | None, Meta(description="95 % interval, paired per token.")]


class AblationControls(Struct, frozen=True, kw_only=True):
    """Controls of the largest damage among the measured experts."""

    layer: Annotated[int, Meta(description="MoE layer of the most damaging expert.")]
    expert: Annotated[int, Meta(description="Number of the most damaging expert.")]
    least_used: Annotated[AblationControl | None, Meta(description="The expert that fewest tokens select.")]
    same_layer: Annotated[
        AblationControl | None,
        Meta(description="Another expert of the same layer, at random among the 3 with the most similar `tokens`."),
    ]


class WholeModel(Struct, frozen=True, kw_only=True):
    """Prediction of the same tokens with all experts on."""

    mean_surprisal: Annotated[float, Meta(description="Mean surprisal of a token, in nats.")]
    interval: Annotated[Interval | None, Meta(description="95 % interval of `mean_surprisal`.")]


class AblationReport(Struct, frozen=True, kw_only=True):
    """Damage of switching off each measured expert alone, and the rankings that predict it."""

    tokens: Annotated[int, Meta(description="Predicted tokens, over which damage is averaged.")]
    model: Annotated[str, Meta(description="Name of the model.")]
    fingerprint: Annotated[
        str | None, Meta(description="SHA-256 of metadata, tensor table and size, not of the weights; null if unknown.")
    ]
    quantization: Annotated[str | None, Meta(description="Quantization; null if unknown.")]
    backend: Annotated[str, Meta(description="Name of the engine.")]
    layers: Annotated[list[int], Meta(description="Index of each MoE layer in the model.")]
    experts_per_layer: Annotated[int, Meta(description="Routed experts of a layer, measured or not.")]
    experts_per_token: Annotated[
        int | list[int],
        Meta(description="Experts that a layer selects for a token; a list, one per MoE layer, where layers differ."),
    ]
    corpus: Annotated[ScoredText, Meta(description="The tokens.")]
    window: Annotated[int, Meta(description="Largest number of tokens of a window.")]
    block: Annotated[int, Meta(description="Tokens per block of the bootstrap.")]
    draws: Annotated[int, Meta(description="Bootstrap resamples of `p`.")]
    experts: Annotated[list[ExpertDamage], Meta(description="Measured experts, by layer and number.")]
    rank_correlations: Annotated[
        dict[str, RankingResult],
        Meta(description="By ranking: `count`, `weight_mass`, `saliency`, `saliency_mass`; absent if not measured."),
    ]
    differences: Annotated[
        list[RankingDifference], Meta(description="Every pair of rankings, the largest difference first.")
    ]
    split_half: Annotated[SplitHalves, Meta(description="Stability of the damage itself.")]
    controls: Annotated[AblationControls, Meta(description="Controls of the largest damage.")]
    whole: Annotated[WholeModel, Meta(description="The model with all experts on.")]
