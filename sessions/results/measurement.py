"""Result of `measure`: a measurement of several runs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from moe_watch.routing.results import FitResult, Interval
from moe_watch.sessions.results.cost import NoiseResult


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
