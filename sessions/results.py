"""Results that `--json` prints of recordings and measurements: one class per JSON object, one field per key.

`moe-watch schema` and docs/json.md show the descriptions. `None` is null: unknown, not recorded, or infinite.
`UNSET` is a key that is left out. Fields are in the order in which they are printed. Results of a run and of a fit are
in `moe_watch.routing.results`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from moe_watch.routing.results import FitResult, LayerMeans, TokenCounts

Interval = tuple[float, float]
"""Lower and upper end of a 95 % interval."""


# -- the observation cost


class NoiseResult(Struct, frozen=True, kw_only=True):
    """Load on the machine during a measurement."""

    cores: Annotated[int, Meta(description="Number of logical processors.")]
    load: Annotated[
        float | None,
        Meta(description="Load average of the last minute: tasks running or waiting to run; null if unavailable."),
    ]
    others: Annotated[
        float | None,
        Meta(description="Share of all processors' time used by other processes, 0 to 1; null if unavailable."),
    ]
    steal: Annotated[
        float | None,
        Meta(description="Share of all processors' time taken by the hypervisor, 0 to 1; null if unavailable."),
    ]
    unavailable: Annotated[dict[str, str], Meta(description="Reason of each key that is null.")]


class BenchRow(Struct, frozen=True, kw_only=True):
    """Speed of one variant in one phase."""

    name: Annotated[str, Meta(description="Name of the variant; `bare` is the engine's own loop, the baseline.")]
    phase: Annotated[Literal["prefill", "decode"], Meta(description="Phase that was measured.")]
    tokens_per_second: Annotated[float, Meta(description="Median over the rounds.")]
    ratio: Annotated[float, Meta(description="Speed over the speed of the baseline in the same round.")]
    interval: Annotated[
        Interval | None, Meta(description="95 % interval of `ratio`; null if there were too few rounds.")
    ]
    too_noisy: Annotated[str | None, Meta(description="Why the ratio is not reliable; null if it is.")]


class CostResult(Struct, frozen=True, kw_only=True):
    """Observation cost, as the dashboard shows it."""

    tap_off: Annotated[float, Meta(description="Tokens per second of the engine's own loop.")]
    tap_on: Annotated[float, Meta(description="Tokens per second with the tap on.")]
    ratio: Annotated[float, Meta(description="Speed with the tap on over speed of the engine's own loop.")]
    interval: Annotated[
        Interval | None, Meta(description="95 % interval of `ratio`; null if there were too few rounds.")
    ]


class BenchReport(Struct, frozen=True, kw_only=True):
    """Observation cost on this machine."""

    model: Annotated[str, Meta(description="Name of the model.")]
    backend: Annotated[str, Meta(description="Name of the engine.")]
    device: Annotated[str, Meta(description="Device that ran the model.")]
    rounds: Annotated[int, Meta(description="Number of times that each variant was measured.")]
    tokens: Annotated[int, Meta(description="Tokens generated in each measurement.")]
    rows: Annotated[list[BenchRow], Meta(description="One object per phase and variant.")]
    cost: Annotated[
        CostResult | None,
        Meta(description="Cost of the tap in decode. It is stored; null if the measurement is too noisy."),
    ]
    cost_unavailable: Annotated[
        str | None,
        Meta(
            description="Why there is no cost; null if there is one. The exit status is then 1 and nothing is stored."
        ),
    ]
    noise: Annotated[NoiseResult, Meta(description="Load on the machine during the measurement.")]


# -- recordings


class HalfLifeResult(Struct, frozen=True, kw_only=True):
    """Half-life of the recorded chunks."""

    verdict: Annotated[str | None, Meta(description="Verdict of the fit; null if nothing can be fitted.")]
    half_life: Annotated[float | None, Meta(description="Half-life in chunks; null if not observed.")]
    words: Annotated[str, Meta(description="The verdict as a sentence, or why there is none.")]


class RecordingResult(Struct, frozen=True, kw_only=True):
    """Session file. The keys `model` to `half_life` are left out if the file has no readable header."""

    condition: Annotated[
        Literal["whole", "failed", "unfinished", "torn", "unreadable"],
        Meta(description="`whole`, `failed`, `unfinished`, `torn` or `unreadable`, as in the list of sessions."),
    ]
    problem: Annotated[str, Meta(description="Fault of the file as one line; empty if there is none.")]
    model: Annotated[str | UnsetType, Meta(description="Name of the model.")] = UNSET
    quantization: Annotated[str | UnsetType | None, Meta(description="Quantization of the model; null if unknown.")] = (
        UNSET
    )
    backend: Annotated[str | UnsetType, Meta(description="Name of the engine.")] = UNSET
    created: Annotated[str | UnsetType, Meta(description="Time of the recording in UTC, ISO 8601.")] = UNSET
    layers: Annotated[list[int] | UnsetType, Meta(description="Index of each MoE layer in the model.")] = UNSET
    experts: Annotated[int | UnsetType, Meta(description="Routed experts of a layer.")] = UNSET
    experts_per_token: Annotated[
        int | list[int] | UnsetType,
        Meta(description="Experts that a layer selects for a token; a list, one per MoE layer, where layers differ."),
    ] = UNSET
    continues: Annotated[
        str | UnsetType | None, Meta(description="First file of the run, for a continuation file; else null.")
    ] = UNSET
    tokens: Annotated[int | UnsetType, Meta(description="Tokens in this file.")] = UNSET
    end: Annotated[int | UnsetType, Meta(description="Tokens of the run at the end of this file.")] = UNSET
    chunks: Annotated[int | UnsetType, Meta(description="Chunks in this file.")] = UNSET
    ended: Annotated[
        str | UnsetType | None,
        Meta(description="Finish reason, or message of the error; null if the file does not have the end of the run."),
    ] = UNSET
    half_life: Annotated[HalfLifeResult | UnsetType, Meta(description="Half-life of the recorded chunks.")] = UNSET
    name: Annotated[str, Meta(description="Name of the session: the file name without its endings.")]
    path: Annotated[str, Meta(description="Path of the file.")]
    run: Annotated[str, Meta(description="Name of the first file of the run.")]
    bytes: Annotated[int, Meta(description="Size of the file.")]
    modified: Annotated[float, Meta(description="Time of the last change, in seconds since 1970.")]


class RecordingList(Struct, frozen=True, kw_only=True):
    """Sessions of a folder."""

    folder: Annotated[str, Meta(description="Path of the folder.")]
    sessions: Annotated[list[RecordingResult], Meta(description="One object per file, newest first.")]


class RecordingPreview(RecordingResult, frozen=True, kw_only=True):
    """Session file, and the beginning of its text."""

    prompt: Annotated[str, Meta(description="Prompt as recorded.")]
    text: Annotated[str, Meta(description="Beginning of the text, prompt included; up to 2,000 characters.")]
    capture: Annotated[list[str], Meta(description="Quantities recorded per token.")]
    warnings: Annotated[list[str], Meta(description="Warnings about the model and the engine, one line each.")]


# -- checks


class FaultResult(Struct, frozen=True, kw_only=True):
    """Fault of one kind."""

    check: Annotated[str, Meta(description="Fixed name of the check that found it.")]
    line: Annotated[
        int | None, Meta(description="Line of the first one, from 1; null if it concerns the file as a whole.")
    ]
    text: Annotated[str, Meta(description="The first one as a sentence.")]
    count: Annotated[int, Meta(description="Number of faults of this kind.")]


class FileVerdict(Struct, frozen=True, kw_only=True):
    """Verdict on one file. A file that cannot be read has `file`, `status` and `error` only."""

    file: Annotated[str, Meta(description="Path of the file.")]
    status: Annotated[
        Literal[0, 1, 2], Meta(description="0 without a fault, 1 with faults, 2 if the file cannot be read.")
    ]
    error: Annotated[str | UnsetType, Meta(description="Why the file cannot be read; left out if it can.")] = UNSET
    schema: Annotated[tuple[int, int] | UnsetType, Meta(description="Major and minor version of the file format.")] = (
        UNSET
    )
    lines: Annotated[int | UnsetType, Meta(description="Number of lines.")] = UNSET
    tokens: Annotated[int | UnsetType, Meta(description="Number of tokens.")] = UNSET
    chunks: Annotated[int | UnsetType, Meta(description="Number of recorded chunks.")] = UNSET
    unknown_events: Annotated[
        int | UnsetType, Meta(description="Number of events of a newer version, which are not checked.")
    ] = UNSET
    findings: Annotated[list[FaultResult] | UnsetType, Meta(description="Faults in the order of lines.")] = UNSET
    remarks: Annotated[list[str] | UnsetType, Meta(description="Notes that are no faults, one line each.")] = UNSET


class RunVerdict(Struct, frozen=True, kw_only=True):
    """Verdict on the files of one run together."""

    file: Annotated[str, Meta(description="First file of the run.")]
    parts: Annotated[list[str], Meta(description="Its continuation files in order.")]
    status: Annotated[Literal[0, 1], Meta(description="0 if the files fit together, 1 if they do not.")]
    tokens: Annotated[int, Meta(description="Tokens in all of them.")]
    findings: Annotated[list[FaultResult], Meta(description="Faults; `line` is null.")]
    remarks: Annotated[list[str], Meta(description="Notes that are no faults, one line each.")]


class VerifyReport(Struct, frozen=True, kw_only=True):
    """Verdict on files and on the runs that they form."""

    files: Annotated[list[FileVerdict], Meta(description="One object per file.")]
    runs: Annotated[list[RunVerdict], Meta(description="One object per run.")]


class LeftOutResult(Struct, frozen=True, kw_only=True):
    """Line that was not copied."""

    line: Annotated[int, Meta(description="Number of the line, from 1.")]
    reason: Annotated[str, Meta(description="Why it was left out.")]


class SalvageReport(Struct, frozen=True, kw_only=True):
    """Copy of the readable part of a damaged session."""

    output: Annotated[str, Meta(description="Path of the copy.")]
    lines: Annotated[int, Meta(description="Lines in the copy.")]
    tokens: Annotated[int, Meta(description="Tokens in the copy.")]
    left_out: Annotated[list[LeftOutResult], Meta(description="Lines left out; the first 1,000.")]
    left_out_lines: Annotated[int, Meta(description="Number of lines left out.")]
    missing_tokens: Annotated[int, Meta(description="Tokens that are missing from the copy.")]
    computed: Annotated[int, Meta(description="Chunks and keyframes recomputed from the tokens that remain.")]


# -- files


class ImportReport(Struct, frozen=True, kw_only=True):
    """Session made from another program's trace."""

    path: Annotated[str, Meta(description="Path of the session.")]
    engine: Annotated[str, Meta(description="Program that wrote the trace.")]
    what: Annotated[str, Meta(description="Trace format in words.")]
    layers: Annotated[list[int], Meta(description="Index of each MoE layer in the model.")]
    experts: Annotated[int, Meta(description="Routed experts of a layer.")]
    experts_per_token: Annotated[
        int | list[int],
        Meta(description="Experts that a layer selects for a token; a list, one per MoE layer, where layers differ."),
    ]
    tokens: Annotated[int, Meta(description="Number of tokens; 0 for counts without tokens.")]
    warnings: Annotated[list[str], Meta(description="What the trace lacks, one line each.")]


class ExportReport(Struct, frozen=True, kw_only=True):
    """Files written from a session."""

    output: Annotated[str, Meta(description="Path of the folder, or of the one file.")]
    format: Annotated[str, Meta(description="Format, as given with `--to`.")]
    rows: Annotated[dict[str, int], Meta(description="Rows of each table by its name.")]
    warnings: Annotated[list[str], Meta(description="What the tables lack, one line each.")]


# -- a comparison


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


# -- a measurement


class EstimateResult(Struct, frozen=True, kw_only=True):
    """Mean over independent clusters."""

    mean: Annotated[float, Meta(description="The mean.")]
    interval: Annotated[Interval | None, Meta(description="95 % interval; null if there are too few clusters.")]
    clusters: Annotated[int, Meta(description="Number of clusters.")]


class MeasuredModel(Struct, frozen=True, kw_only=True):
    """Model of a measurement."""

    name: Annotated[str, Meta(description="Name of the model.")]
    architecture: Annotated[str, Meta(description="Name of the architecture.")]
    layers: Annotated[list[int], Meta(description="Index of each MoE layer in the model.")]
    experts: Annotated[int, Meta(description="Routed experts of a layer.")]
    experts_per_token: Annotated[
        int | list[int],
        Meta(description="Experts that a layer selects for a token; a list, one per MoE layer, where layers differ."),
    ]
    quantization: Annotated[str | None, Meta(description="Quantization; null if unknown.")]
    fingerprint: Annotated[
        str | None, Meta(description="SHA-256 of metadata, tensor table and size, not of the weights; null if unknown.")
    ]


class MeasuredBackend(Struct, frozen=True, kw_only=True):
    """Engine of a measurement."""

    name: Annotated[str, Meta(description="Name of the engine.")]
    version: Annotated[str, Meta(description="Version of the engine.")]
    device: Annotated[str, Meta(description="Device that ran the model.")]
    dtype: Annotated[str | None, Meta(description="Type of the numbers computed with; null if unknown.")]


class MeanTrajectory(Struct, frozen=True, kw_only=True):
    """Trajectory averaged over runs, per measured chunk."""

    mid_pressures: Annotated[list[float], Meta(description="Mean P_mid of each chunk.")]
    std: Annotated[
        list[float] | None, Meta(description="Standard deviation over runs (ddof 1); null for a single run.")
    ]
    fit: Annotated[FitResult, Meta(description="Fit of the mean.")]


class ControlResult(Struct, frozen=True, kw_only=True):
    """Trend split into position and age, with the late twins."""

    shift_chunks: Annotated[float, Meta(description="Chunks by which late twins begin later, mean over pairs.")]
    trend: Annotated[EstimateResult, Meta(description="Change of P_mid over `shift_chunks`.")]
    position: Annotated[EstimateResult, Meta(description="Its part by position: same age, later in the context.")]
    age: Annotated[EstimateResult, Meta(description="Its part by age: same position, more chunks since the prompt.")]
    separable: Annotated[bool, Meta(description="Exactly one of the two intervals excludes 0.")]
    late_verdicts: Annotated[dict[str, int], Meta(description="Number of late twins by verdict.")]


class BoundaryResult(Struct, frozen=True, kw_only=True):
    """Mean P_mid of the continuations at one fork."""

    run: Annotated[int, Meta(description="Number of the run, from 1.")]
    i: Annotated[int, Meta(description="Tokens of the run before the fork.")]
    none: Annotated[float, Meta(description="Arm without text.")]
    neutral: Annotated[float, Meta(description="Arm with the neutral text.")]
    text: Annotated[float, Meta(description="Arm with the text.")]


class EnergyResult(Struct, frozen=True, kw_only=True):
    """Effect of a text on P_mid of the next chunk, measured in forks."""

    text: Annotated[str, Meta(description="The text.")]
    neutral: Annotated[str, Meta(description="Neutral text that it is compared with.")]
    boundaries: Annotated[int, Meta(description="Number of forks.")]
    replicates: Annotated[tuple[int, int], Meta(description="Fewest and most continuations in an arm.")]
    arms: Annotated[dict[str, float], Meta(description="Mean P_mid by arm: `none`, `neutral`, `text`.")]
    text_minus_neutral: Annotated[EstimateResult, Meta(description="Effect of the text; the primary estimate.")]
    text_minus_none: Annotated[EstimateResult, Meta(description="Effect against no text.")]
    neutral_minus_none: Annotated[EstimateResult, Meta(description="Effect of an interruption by any text.")]
    by_boundary: Annotated[list[BoundaryResult], Meta(description="One object per fork.")]


class RunConfig(Struct, frozen=True, kw_only=True):
    """Settings of one run."""

    chunk_size: Annotated[int, Meta(description="Tokens of a chunk.")]
    max_chunks: Annotated[int, Meta(description="Measured chunks planned.")]
    total_chunks: Annotated[int, Meta(description="Chunks generated, warm-up included.")]
    total_tokens: Annotated[int, Meta(description="Tokens generated.")]
    seed: Annotated[int, Meta(description="Seed of the sampler.")]


class TrajectoryResult(Struct, frozen=True, kw_only=True):
    """Measured chunks of one run, as lists of equal length."""

    chunk_indices: Annotated[list[int], Meta(description="Number of each chunk, from 0 for the first measured one.")]
    session_chunks: Annotated[list[int], Meta(description="Index of each chunk in the session, warm-up included.")]
    mid_pressures: Annotated[list[float], Meta(description="Mid-pressure (P_mid).")]
    net_pressures: Annotated[list[float], Meta(description="Net pressure.")]
    fast_pressures: Annotated[list[float], Meta(description="Fast pressure.")]
    slow_pressures: Annotated[list[float], Meta(description="Slow pressure.")]
    entropies: Annotated[list[float], Meta(description="Mean router entropy, 0 to 1.")]
    residual_intents: Annotated[list[float], Meta(description="Residual intent.")]


class DecayShape(Struct, frozen=True, kw_only=True):
    """Shape of a decay as ChronoMoE computes it."""

    linear_slope: Annotated[float, Meta(description="Slope of a least-squares line, per chunk.")]
    exponential_tau: Annotated[
        float | None, Meta(description="Time constant of an exponential decay, in chunks; null if it does not fall.")
    ]
    max_single_drop: Annotated[
        float, Meta(description="Lowest difference of two successive chunks; negative for a drop.")
    ]
    max_drop_at_chunk: Annotated[int, Meta(description="Position of the chunk before that drop, from 0.")]


class SeriesStatistics(Struct, frozen=True, kw_only=True):
    """Statistics of a P_mid series."""

    mean: Annotated[float, Meta(description="Mean of the series.")]
    std: Annotated[float, Meta(description="Standard deviation of the series, of the population (ddof 0).")]
    min: Annotated[float, Meta(description="Lowest value.")]
    max: Annotated[float, Meta(description="Highest value.")]


class AnalysisResult(Struct, frozen=True, kw_only=True):
    """Analysis of one run as ChronoMoE writes it."""

    initial_pressure: Annotated[float, Meta(description="First value of the series.")]
    final_pressure: Annotated[float, Meta(description="Last value of the series.")]
    total_decay: Annotated[float, Meta(description="Last value minus first value; negative if mid-pressure fell.")]
    half_life_chunks: Annotated[
        int | None, Meta(description="Number of the first chunk at or below half of the first value; null if none is.")
    ]
    decay_shape: Annotated[DecayShape, Meta(description="Shape of the decay.")]
    statistics: Annotated[SeriesStatistics, Meta(description="Statistics of the series.")]


class MeasuredRun(Struct, frozen=True, kw_only=True):
    """One run of a measurement. The keys of ChronoMoE's own measurement keep their meaning."""

    run: Annotated[int, Meta(description="Number of the run, from 1; a late twin has the number of its run.")]
    session: Annotated[str, Meta(description="Name of the session file.")]
    protocol: Annotated[Literal["natural_decay"], Meta(description="Name of the protocol.")]
    model: Annotated[str, Meta(description="Name of the model.")]
    prompt: Annotated[str, Meta(description="Prompt as recorded.")]
    config: Annotated[RunConfig, Meta(description="Settings of the run.")]
    trajectory: Annotated[TrajectoryResult, Meta(description="Measured chunks.")]
    analysis: Annotated[AnalysisResult, Meta(description="Analysis as ChronoMoE writes it.")]
    fit: Annotated[FitResult, Meta(description="Fit of the half-life; chunk 0 is the first measured one.")]
    prompt_tokens: Annotated[int, Meta(description="Tokens of the prompt.")]
    would_stop_at_chunks: Annotated[
        list[int | None],
        Meta(description="Chunks in which the model would have ended its text; null for one in the warm-up."),
    ]
    generated_text: Annotated[str, Meta(description="Generated text.")]


class MeasurementResult(Struct, frozen=True, kw_only=True):
    """Measurement of several runs: the content of `results.json`."""

    format: Annotated[Literal["moe-watch measurement 1"], Meta(description="Changes if the meaning of a key changes.")]
    model: Annotated[MeasuredModel, Meta(description="Model.")]
    backend: Annotated[MeasuredBackend, Meta(description="Engine.")]
    pressure: Annotated[str, Meta(description="Pressure mode.")]
    warm_up_chunks: Annotated[int, Meta(description="Chunks of warm-up before the measured ones.")]
    plan: Annotated[dict[str, Any], Meta(description="Settings of the measurement, as in `plan.json`.")]
    verdicts: Annotated[dict[str, int], Meta(description="Number of runs by verdict.")]
    mean_trajectory: Annotated[MeanTrajectory, Meta(description="Trajectory averaged over runs.")]
    control: Annotated[
        ControlResult | None, Meta(description="Trend split into position and age; null without late twins.")
    ]
    external_energy: Annotated[EnergyResult | None, Meta(description="Effect of a text; null without forks.")]
    runs: Annotated[list[MeasuredRun], Meta(description="One object per run.")]
    late_runs: Annotated[list[MeasuredRun], Meta(description="One object per late twin.")]


class MeasurementReport(MeasurementResult, frozen=True, kw_only=True):
    """Measurement of several runs, and the load on the machine during each of them."""

    noise: Annotated[
        dict[str, NoiseResult | None],
        Meta(description="Load on the machine by session file; null for a run measured without recording it."),
    ]
