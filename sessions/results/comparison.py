"""Result of `compare`: a comparison of sessions, measurements and P_mid series."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from moe_watch.routing.results import FitResult, LayerMeans, TokenCounts


class TeacherResult(Struct, frozen=True, kw_only=True):
    """Session that a run took its tokens from."""

    model: Annotated[str, Meta(description="Name of its model.")]
    backend: Annotated[str, Meta(description="Name of its engine.")]
    tokens: Annotated[int, Meta(description="Number of its tokens.")]


class ComparedRunResult(Struct, frozen=True, kw_only=True):
    """One run of a source. Means and tokens are null for a P_mid series."""

    file: Annotated[str, Meta(description="Name of the file.")]
    tokens: Annotated[TokenCounts | None, Meta(description="Number of tokens.")]
    fit: Annotated[FitResult | None, Meta(description="Fit of the half-life; null if it is not available.")]
    fit_unavailable: Annotated[str | None, Meta(description="Why there is no fit; null if there is one.")]
    router_entropy: Annotated[LayerMeans | None, Meta(description="Router entropy, 0 to 1; null if not recorded.")]
    churn: Annotated[
        LayerMeans | None,
        Meta(description="1 − overlap with the expert set of the token before; null if not recorded."),
    ]
    surprisal: Annotated[float | None, Meta(description="Mean surprisal in nats; null if not recorded.")]


class ComparedSourceResult(Struct, frozen=True, kw_only=True):
    """Session, measurement or P_mid series. Facts of model and engine are null for a P_mid series."""

    file: Annotated[str, Meta(description="Name of the file or folder.")]
    kind: Annotated[
        Literal["session", "measurement", "series"], Meta(description="`session`, `measurement` or `series`.")
    ]
    model: Annotated[str | None, Meta(description="Name of the model.")]
    layers: Annotated[list[int] | None, Meta(description="Index of each MoE layer in the model.")]
    experts: Annotated[int | None, Meta(description="Routed experts of a layer.")]
    experts_per_token: Annotated[
        int | list[int] | None,
        Meta(description="Experts that a layer selects for a token; a list, one per MoE layer, where layers differ."),
    ]
    quantization: Annotated[str | None, Meta(description="Quantization of the model; null if unknown.")]
    backend: Annotated[str | None, Meta(description="Name of the engine.")]
    teacher: Annotated[
        TeacherResult | None, Meta(description="Session that gave the tokens; null without teacher forcing.")
    ]
    pressure: Annotated[
        str | None, Meta(description="Pressure mode; null for a dense model, or a series without a named mode.")
    ]
    runs: Annotated[list[ComparedRunResult], Meta(description="One object per run.")]
    router_entropy: Annotated[float | None, Meta(description="Mean over runs, 0 to 1; null if not recorded.")]
    churn: Annotated[float | None, Meta(description="Mean over runs, 0 to 1; null if not recorded.")]
    surprisal: Annotated[float | None, Meta(description="Mean over runs, in nats; null if not recorded.")]
    tokens_per_second: Annotated[
        float | None,
        Meta(description="Decode speed, mean over runs, without pauses and forks; null if the times are not known."),
    ]
    worker_memory: Annotated[
        int | None, Meta(description="Largest memory of the model's process, in bytes; null if not recorded.")
    ]
    celsius: Annotated[float | None, Meta(description="Highest temperature, in degrees Celsius; null without sensors.")]
    warnings: Annotated[list[str], Meta(description="Warnings about the source, one line each.")]


class PermutationResult(Struct, frozen=True, kw_only=True):
    """Permutation test of two sources. Without a test `difference`, `p_corrected`, `ways` and `exact` are left out."""

    permuted: Annotated[str, Meta(description="What was permuted, in words.")]
    runs: Annotated[tuple[int, int], Meta(description="Number of runs of both sources.")]
    difference: Annotated[
        float | UnsetType,
        Meta(
            description="Second minus first: mean ranks of half-lives; of a trend the slope per chunk of single runs, "
            "the rise over the run of several."
        ),
    ] = UNSET
    p: Annotated[float | None, Meta(description="p-value of the test, two-sided; null without a test.")]
    p_corrected: Annotated[
        float | UnsetType | None, Meta(description="p-value corrected for the number of pairs (Holm).")
    ] = UNSET
    ways: Annotated[int | UnsetType, Meta(description="Number of permutations tried.")] = UNSET
    exact: Annotated[bool | UnsetType, Meta(description="All permutations were tried.")] = UNSET
    unavailable: Annotated[str | None, Meta(description="Why there is no test; null if there is one.")]


class UsageDistanceResult(Struct, frozen=True, kw_only=True):
    """Difference of expert usage. If unavailable, `phase`, `per_layer` and `rows` are left out."""

    phase: Annotated[Literal["decode"] | UnsetType, Meta(description="Phase that was compared.")] = UNSET
    mean: Annotated[
        float | None, Meta(description="Mean over layers of the Jensen–Shannon distance, 0 (equal) to 1 (disjoint).")
    ]
    per_layer: Annotated[
        list[float | None] | UnsetType,
        Meta(description="Distance of each MoE layer; null if a source has no row there."),
    ] = UNSET
    rows: Annotated[
        tuple[list[int], list[int]] | UnsetType, Meta(description="Rows of each layer in both sources.")
    ] = UNSET
    unavailable: Annotated[str | None, Meta(description="Why there is no distance; null if there is one.")]


class WeightDifference(Struct, frozen=True, kw_only=True):
    """Largest difference of a router weight, among rows with equal expert sets."""

    largest: Annotated[float, Meta(description="The difference.")]
    i: Annotated[int, Meta(description="Index of the token.")]
    layer: Annotated[int, Meta(description="Position of the layer among the MoE layers, from 0.")]


class TieCounts(Struct, frozen=True, kw_only=True):
    """Rows that differ by less than the recording can resolve."""

    unit: Annotated[float, Meta(description="Unit of recorded weights: the larger one of both sessions.")]
    rows_with_weights: Annotated[int, Meta(description="Rows of which both sessions have weights.")]
    sets: Annotated[int, Meta(description="Rows with different expert sets.")]
    top_1: Annotated[int | None, Meta(description="Rows with different top-1 experts; null as `order`.")]
    order: Annotated[
        int | None, Meta(description="Rows with equal sets in different order; null if the order was not recorded.")
    ]


class LayerTies(Struct, frozen=True, kw_only=True):
    """Rows of one layer that differ by less than the recording can resolve."""

    sets: Annotated[int, Meta(description="Rows with different expert sets.")]
    top_1: Annotated[int | None, Meta(description="Rows with different top-1 experts; null as `order`.")]
    order: Annotated[
        int | None, Meta(description="Rows with equal sets in different order; null if the order was not recorded.")
    ]


class LayerAgreement(Struct, frozen=True, kw_only=True):
    """Agreement in one layer, as numbers of rows."""

    rows: Annotated[int, Meta(description="Rows that both sessions have.")]
    sets: Annotated[int, Meta(description="Rows with equal expert sets.")]
    top_1: Annotated[int | None, Meta(description="Rows with equal top-1 experts; null as `order`.")]
    order: Annotated[
        int | None, Meta(description="Rows with the same experts in the same order; null if it was not recorded.")
    ]
    experts_kept: Annotated[
        float | None, Meta(description="Share of the first session's selections that the second one makes as well.")
    ]
    rank_of_top_1: Annotated[
        list[int] | None,
        Meta(
            description="Rows by the rank that the second session gives to the first one's top-1 expert; "
            "the last number is of rows where it is not selected. Null as `order`."
        ),
    ]
    weight_difference: Annotated[
        float | None, Meta(description="Largest difference of a weight, among rows with equal sets; null without one.")
    ]
    ties: Annotated[LayerTies, Meta(description="Rows that differ by less than the recording can resolve.")]
    usage_distance: Annotated[
        float | None, Meta(description="Jensen–Shannon distance of usage over these rows, 0 to 1; null without rows.")
    ]
    usage_correlation: Annotated[
        float | None, Meta(description="Rank correlation of usage over these rows, −1 to 1; null if undefined.")
    ]


class AgreementResult(Struct, frozen=True, kw_only=True):
    """Agreement of routing over the same tokens. A row is one token in one layer; shares have `rows` as denominator."""

    rows: Annotated[int, Meta(description="Rows that both sessions have.")]
    only_first: Annotated[int, Meta(description="Rows that only the first session has; they are not compared.")]
    only_second: Annotated[int, Meta(description="Rows that only the second session has; they are not compared.")]
    sets: Annotated[float | None, Meta(description="Share of rows with equal expert sets; null without rows.")]
    top_1: Annotated[float | None, Meta(description="Share of rows with equal top-1 experts; null as `order`.")]
    order: Annotated[
        float | None,
        Meta(description="Share of rows with the same experts in the same order; null without rows or without order."),
    ]
    order_unavailable: Annotated[
        str | None, Meta(description="Why there is no `order` and no `top_1`; null if there is.")
    ]
    experts_kept: Annotated[
        float | None, Meta(description="Share of the first session's selections that the second one makes as well.")
    ]
    weight_difference: Annotated[
        WeightDifference | None, Meta(description="Largest difference of a weight; null without weights to compare.")
    ]
    ties: Annotated[TieCounts, Meta(description="Rows that differ by less than the recording can resolve.")]
    usage_distance: Annotated[
        float | None, Meta(description="Mean over layers of the Jensen–Shannon distance of usage, 0 to 1.")
    ]
    usage_correlation: Annotated[float | None, Meta(description="Mean over layers of the rank correlation of usage.")]
    per_layer: Annotated[list[LayerAgreement], Meta(description="One object per MoE layer.")]


class SurprisalResult(Struct, frozen=True, kw_only=True):
    """Mean surprisal of the same tokens in two sessions."""

    first: Annotated[float, Meta(description="In the first session, in nats.")]
    second: Annotated[float, Meta(description="In the second session, in nats.")]
    tokens: Annotated[int, Meta(description="Number of tokens that have a surprisal in both.")]


class TokenAgreement(Struct, frozen=True, kw_only=True):
    """Token-by-token comparison. If the common tokens are unknown, `ended`, `routing` and `surprisal` are left out."""

    tokens: Annotated[int | None, Meta(description="Tokens that both sessions begin with; null if unknown.")]
    ended: Annotated[
        str | UnsetType | None, Meta(description="Why there are no more; null if both sessions end there.")
    ] = UNSET
    routing: Annotated[
        AgreementResult | UnsetType | None, Meta(description="Agreement over these tokens; null if not comparable.")
    ] = UNSET
    surprisal: Annotated[
        SurprisalResult | UnsetType | None,
        Meta(description="Surprisal of these tokens; null if no token has it in both."),
    ] = UNSET
    unavailable: Annotated[str | None, Meta(description="Why `tokens` or `routing` is null; null if neither is.")]


class PairResult(Struct, frozen=True, kw_only=True):
    """Comparison of two sources."""

    sources: Annotated[tuple[int, int], Meta(description="Positions of both in `sources`, from 0.")]
    half_life: Annotated[PermutationResult, Meta(description="Test of the half-lives.")]
    trend: Annotated[PermutationResult, Meta(description="Test of the trend of mid-pressure.")]
    usage_distance: Annotated[UsageDistanceResult, Meta(description="Difference of expert usage.")]
    agreement: Annotated[TokenAgreement, Meta(description="Token-by-token comparison.")]


class ComparisonResult(Struct, frozen=True, kw_only=True):
    """Comparison of sessions, measurements and P_mid series."""

    format: Annotated[Literal["moe-watch comparison 1"], Meta(description="Changes if the meaning of a key changes.")]
    sources: Annotated[list[ComparedSourceResult], Meta(description="Sources in the order given.")]
    pairs: Annotated[list[PairResult], Meta(description="The first source with each of the others.")]
