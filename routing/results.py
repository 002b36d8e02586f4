"""Results that `--json` prints of a run and of a fit: one class per JSON object, one field per key.

`moe-watch schema` and docs/json.md show the descriptions. `None` is null: unknown, not recorded, or infinite.
Fields are in the order in which they are printed.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite
from typing import Annotated, Literal

from msgspec import Meta, Struct

Interval = tuple[float, float]
"""Lower and upper end of a 95 % interval."""


def finite(value: float) -> float | None:
    """Return a number as JSON has it: None for NaN and for an infinite one."""
    return float(value) if isfinite(value) else None


def finites(values: Iterable[float]) -> list[float | None]:
    """Return a row `[n]` as JSON has it: None for NaN and for infinite numbers."""
    return [finite(value) for value in values]


# -- a fit


class CrossingResult(Struct, frozen=True, kw_only=True):
    """Crossing of half of the start, as ChronoMoE counts it."""

    chunk: Annotated[
        int | None, Meta(description="Index of the first measured chunk at or below half of P₀; null if there is none.")
    ]


class FloorResult(Struct, frozen=True, kw_only=True):
    """Lowest value of a curve or of a pressure mode, and half of the start."""

    floor: Annotated[float, Meta(description="Lowest mid-pressure that can be reached.")]
    half: Annotated[float, Meta(description="Half of the mid-pressure at the start.")]


class CandidateResult(Struct, frozen=True, kw_only=True):
    """Candidate shape of a fit."""

    shape: Annotated[str, Meta(description="`constant`, `linear`, `exponential` or `cliff`.")]
    aicc: Annotated[
        float | None, Meta(description="Corrected Akaike information criterion; null if there are too few chunks.")
    ]
    weight: Annotated[float, Meta(description="Akaike weight, 0 to 1; the weights of all candidates add up to 1.")]
    parameters: Annotated[
        dict[str, float], Meta(description="Fitted parameters of the shape by name; times in chunks.")
    ]


class ReferenceResult(Struct, frozen=True, kw_only=True):
    """Statistics of a mid-pressure series as ChronoMoE computes them, without a noise model."""

    initial_pressure: Annotated[float, Meta(description="First value of the series.")]
    final_pressure: Annotated[float, Meta(description="Last value of the series.")]
    total_decay: Annotated[float, Meta(description="Last value minus first value; negative if mid-pressure fell.")]
    linear_slope: Annotated[float, Meta(description="Slope of a least-squares line, per chunk.")]
    exponential_tau: Annotated[
        float | None, Meta(description="Time constant of an exponential decay, in chunks; null if it does not fall.")
    ]
    max_single_drop: Annotated[
        float, Meta(description="Lowest difference of two successive chunks; negative for a drop.")
    ]
    max_drop_at_chunk: Annotated[int, Meta(description="Position in the series of the chunk before that drop, from 0.")]
    mean: Annotated[float, Meta(description="Mean of the series.")]
    std: Annotated[float, Meta(description="Standard deviation of the series, of the population (ddof 0).")]
    min: Annotated[float, Meta(description="Lowest value.")]
    max: Annotated[float, Meta(description="Highest value.")]


class CollapseResult(Struct, frozen=True, kw_only=True):
    """Fall of router entropy over a run, in units of router entropy; negative if it rose."""

    first_last: Annotated[float, Meta(description="First chunk minus last chunk.")]
    early_late: Annotated[float, Meta(description="Mean of the first 30 % of the chunks minus mean of the last 30 %.")]


class FitResult(Struct, frozen=True, kw_only=True):
    """Fit of one context's mid-pressure."""

    verdict: Annotated[
        Literal["stable", "rising", "linear", "exponential", "cliff", "unreachable"],
        Meta(description="Verdict on the trend; `unreachable` if the pressure mode cannot fall to half of the start."),
    ]
    half_life: Annotated[
        float | None, Meta(description="Chunks until the fitted curve is at half of its start; null if not observed.")
    ]
    interval: Annotated[
        tuple[float | None, float | None] | None,
        Meta(description="95 % interval of the half-life, in chunks. Its upper end is null if the interval is open."),
    ]
    block_interval: Annotated[
        tuple[float | None, float | None] | None, Meta(description="The same interval by block bootstrap of residuals.")
    ]
    censored: Annotated[bool, Meta(description="The fitted curve reaches half only after the last observed chunk.")]
    never: Annotated[
        FloorResult | None, Meta(description="Set if the fitted curve falls but levels off above half of its start.")
    ]
    mode: Annotated[
        str | None, Meta(description="Pressure mode, such as `measured-v2`; null for a series without a named mode.")
    ]
    reach: Annotated[
        FloorResult | None, Meta(description="Lowest value that the pressure mode can take; null without a mode.")
    ]
    p: Annotated[float, Meta(description="p-value of the trend test, for a single look at this length.")]
    p_sequential: Annotated[
        float, Meta(description="p-value over all looks while the series grew. The verdict uses it.")
    ]
    looks: Annotated[int, Meta(description="Number of sequential looks at the series.")]
    phi: Annotated[float, Meta(description="Correlation of the noise of successive chunks, 0 to 0.95.")]
    start: Annotated[float, Meta(description="Value of the fitted curve at the first chunk.")]
    end: Annotated[float, Meta(description="Value of the fitted curve at the last chunk.")]
    chunks: Annotated[int, Meta(description="Number of chunks fitted.")]
    first_chunk: Annotated[int, Meta(description="Index of the first one.")]
    crossing: Annotated[CrossingResult, Meta(description="First chunk at or below half of the first value.")]
    candidates: Annotated[list[CandidateResult], Meta(description="All candidate shapes.")]
    chosen: Annotated[str, Meta(description="Shape of the fitted curve.")]
    doubt: Annotated[
        str | None, Meta(description="Why the chosen shape is not the one of the highest weight; null if it is.")
    ]
    reference: Annotated[ReferenceResult, Meta(description="Statistics as ChronoMoE computes them.")]
    entropy_collapse: Annotated[
        CollapseResult | None, Meta(description="Fall of router entropy; null if it is not known of all chunks.")
    ]
    words: Annotated[str, Meta(description="The verdict as a sentence.")]


class ContextResult(Struct, frozen=True, kw_only=True):
    """Verdict on one context of a run."""

    context: Annotated[int, Meta(description="Number of the context in its run, from 0.")]
    first_chunk: Annotated[
        int | None, Meta(description="Index of the first measured chunk; null if nothing was measured.")
    ]
    since_mask: Annotated[
        int | None,
        Meta(
            description="Index of the first token since the last change of the mask: earlier chunks of the context are "
            "left out, and P₀ is of the first measured chunk after it; null without a change."
        ),
    ]
    measured: Annotated[int, Meta(description="Number of measured chunks.")]
    initial: Annotated[
        float | None, Meta(description="P₀, mid-pressure of the first measured chunk; null if it was not recorded.")
    ]
    crossing: Annotated[CrossingResult, Meta(description="First measured chunk at or below half of P₀.")]
    verdict: Annotated[str | None, Meta(description="Verdict of the fit; null without a fit.")]
    half_life: Annotated[float | None, Meta(description="Half-life in chunks; null if not observed.")]
    p_sequential: Annotated[
        float | None, Meta(description="p-value over all looks while the series grew; null without a fit.")
    ]
    words: Annotated[str | None, Meta(description="The verdict as a sentence; null without a fit.")]
    fit_unavailable: Annotated[str | None, Meta(description="Why there is no fit; null if there is one.")]


class FitReport(FitResult, frozen=True, kw_only=True):
    """Fit of a session or of a P_mid series, and the contexts of its run."""

    context: Annotated[int | None, Meta(description="Number of the fitted context; null for a P_mid series.")]
    contexts: Annotated[
        list[ContextResult], Meta(description="All contexts of the run in order; empty for a P_mid series.")
    ]


# -- a run


class TokenCounts(Struct, frozen=True, kw_only=True):
    """Tokens of a run by their source."""

    prompt: Annotated[int, Meta(description="Tokens of the prompt.")]
    injected: Annotated[int, Meta(description="Tokens of injections.")]
    generated: Annotated[int, Meta(description="Sampled tokens.")]

    @property
    def total(self) -> int:
        """Tokens of all sources."""
        return self.prompt + self.injected + self.generated


class UsageResult(Struct, frozen=True, kw_only=True):
    """Expert usage of one phase, per MoE layer."""

    rows: Annotated[list[int], Meta(description="Tokens that each layer computed.")]
    counts: Annotated[list[list[int]], Meta(description="Selections by layer and expert.")]
    shares: Annotated[
        list[list[float | None]],
        Meta(description="Selections of an expert over all selections of its layer, 0 to 1; null without a row."),
    ]
    usage_entropy: Annotated[
        list[float | None],
        Meta(description="Entropy of the shares over ln E, 0 to 1; null without a row, or for one expert."),
    ]
    gini: Annotated[
        list[float | None],
        Meta(description="Gini coefficient of the shares, 0 (even) to (E − 1)/E; null without a row."),
    ]
    experts_for_90: Annotated[
        list[int | None],
        Meta(description="Smallest number of experts that have 90 % of the selections; null without a row."),
    ]
    dead: Annotated[
        list[int | None],
        Meta(description="Number of experts without a selection that were on throughout; null without a row."),
    ]
    switched_off: Annotated[
        list[int | None],
        Meta(
            description="Number of experts without a selection that were switched off, all the time or for a part of "
            "it; null without a row."
        ),
    ]


class PhaseUsage(Struct, frozen=True, kw_only=True):
    """Expert usage by phase."""

    prefill: Annotated[UsageResult, Meta(description="Over tokens of prompt and injections.")]
    decode: Annotated[UsageResult, Meta(description="Over generated tokens.")]


class LayerMeans(Struct, frozen=True, kw_only=True):
    """Mean over generated tokens."""

    mean: Annotated[float, Meta(description="Mean over all rows of all layers.")]
    per_layer: Annotated[
        list[float | None], Meta(description="Mean over the rows of each MoE layer; null for a layer without one.")
    ]


class ChunkResult(Struct, frozen=True, kw_only=True):
    """Pressure of one chunk."""

    index: Annotated[int, Meta(description="Number of the chunk in the run, from 0.")]
    context: Annotated[int, Meta(description="Number of its context, from 0.")]
    tokens: Annotated[tuple[int, int], Meta(description="Index of the first and of the last token.")]
    partial: Annotated[bool, Meta(description="The chunk was cut short: it has fewer than `chunk_size` tokens.")]
    warm_up: Annotated[bool, Meta(description="The chunk belongs to the warm-up and is not measured.")]
    fast: Annotated[float | None, Meta(description="Fast pressure; null if a signal that it needs was not recorded.")]
    mid: Annotated[float | None, Meta(description="Mid-pressure (P_mid); null as `fast`.")]
    slow: Annotated[float | None, Meta(description="Slow pressure; null as `fast`.")]
    net: Annotated[float | None, Meta(description="Net pressure; null as `fast`.")]


class PressureResult(Struct, frozen=True, kw_only=True):
    """Pressure of a run, and the fit of one context."""

    mode: Annotated[str, Meta(description="Pressure mode, such as `measured-v2`.")]
    context: Annotated[
        int,
        Meta(
            description="Number of the context that `initial`, `crossing` and `fit` are about: "
            "the newest one that is long enough for a fit, or the newest one."
        ),
    ]
    initial: Annotated[
        float | None, Meta(description="P₀, mid-pressure of the first measured chunk; null if it was not recorded.")
    ]
    crossing: Annotated[CrossingResult, Meta(description="First measured chunk at or below half of P₀.")]
    fit: Annotated[FitResult | None, Meta(description="Fit of the context; null if it is not available.")]
    fit_unavailable: Annotated[str | None, Meta(description="Why there is no fit; null if there is one.")]
    begins_at_chunk: Annotated[
        int | None, Meta(description="Chunks before the recording began; null if it began with the run.")
    ]
    warm_up_missing: Annotated[
        int | None,
        Meta(
            description="Chunks of warm-up still to come before a chunk of the current context is measured; "
            "null if the recording lacks a signal that pressure needs."
        ),
    ]
    contexts: Annotated[list[ContextResult], Meta(description="All contexts of the run in order.")]
    chunks: Annotated[list[ChunkResult], Meta(description="All chunks of the run in order.")]


class EndingResult(Struct, frozen=True, kw_only=True):
    """End of a run."""

    state: Annotated[str, Meta(description="`finished` or `error`.")]
    why: Annotated[
        str | None, Meta(description="Finish reason: `eos`, `length`, `context` or `user`; null for an error.")
    ]


Quantity = Literal["router_entropy", "churn", "surprisal"]
"""Quantities of a run that can be averaged over runs."""


class MaskResult(Struct, frozen=True, kw_only=True):
    """Experts that were switched off from one token on."""

    i: Annotated[int, Meta(description="Index of the first token with this mask, or of the first recorded one.")]
    mask: Annotated[
        list[tuple[int, list[int]]],
        Meta(description="Layer index in the model, and its experts that are off, for each such layer."),
    ]


class RunSummary(Struct, frozen=True, kw_only=True):
    """Summary of a run."""

    model: Annotated[str, Meta(description="Name of the model.")]
    backend: Annotated[str, Meta(description="Name of the engine.")]
    layers: Annotated[list[int], Meta(description="Index of each MoE layer in the model.")]
    experts: Annotated[int, Meta(description="Routed experts of a layer.")]
    experts_per_token: Annotated[
        int | list[int],
        Meta(description="Experts that a layer selects for a token; a list, one per MoE layer, where layers differ."),
    ]
    own_experts_per_token: Annotated[
        int | list[int] | None,
        Meta(description="Experts per token of the model's configuration; null unless the run used another number."),
    ]
    expert_ids: Annotated[
        list[list[int]] | None,
        Meta(
            description="Of a pruned model, number of each expert in the whole model, by layer; null for a whole one."
        ),
    ]
    masks: Annotated[
        list[MaskResult], Meta(description="Changes of the mask in order; empty if all experts were on throughout.")
    ]
    seed: Annotated[int, Meta(description="Seed of the sampler.")]
    tokens: Annotated[TokenCounts, Meta(description="Number of tokens.")]
    would_stop: Annotated[
        int, Meta(description="Number of times that the model ended its text and was made to continue.")
    ]
    usage: Annotated[PhaseUsage, Meta(description="Expert usage.")]
    router_entropy: Annotated[
        LayerMeans | None, Meta(description="Router entropy, 0 to 1; null if it was not recorded.")
    ]
    router_margin: Annotated[
        LayerMeans | None,
        Meta(description="Difference of the two largest router probabilities, 0 to 1; null if it was not recorded."),
    ]
    churn: Annotated[
        LayerMeans | None,
        Meta(description="1 − overlap with the expert set of the token before, 0 to 1; null without such a pair."),
    ]
    surprisal: Annotated[
        float | None, Meta(description="Mean surprisal of generated tokens, in nats; null if it was not recorded.")
    ]
    chunk_size: Annotated[int, Meta(description="Tokens of a chunk.")]
    pressure: Annotated[PressureResult, Meta(description="Pressure, and the fit of the half-life.")]
    perturbations: Annotated[int, Meta(description="Number of injections.")]
    marks: Annotated[int, Meta(description="Number of markers. A refused command is no marker.")]
    ended: Annotated[
        EndingResult | None, Meta(description="How the run ended; null if the recording stops before its end.")
    ]

    def mean_of(self, quantity: Quantity) -> float | None:
        """Return the mean of a quantity over the run's generated tokens; None if it was not recorded."""
        value = {"router_entropy": self.router_entropy, "churn": self.churn, "surprisal": self.surprisal}[quantity]
        return value.mean if isinstance(value, LayerMeans) else value
