"""Results of `bench`: the observation cost, and the load on the machine during a measurement."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from moe_watch.routing.results import Interval


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
