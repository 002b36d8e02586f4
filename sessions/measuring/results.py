"""Results of a measurement as JSON: a function of its session files alone, so they contain no times.

Each run has the keys that ChronoMoE's own measurement writes, with the same meaning, and further ones. All keys:
docs/json.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from msgspec import convert, structs, to_builtins

from moe_watch.routing.half_life.chronomoe import ReferenceNumbers, entropy_collapse
from moe_watch.routing.half_life.fit_json import fit_result
from moe_watch.routing.pressure.external_energy import Boundary, ExternalEnergy
from moe_watch.routing.pressure.formulas import WARM_UP_CHUNKS
from moe_watch.routing.pressure.position_control import PositionControl
from moe_watch.routing.stats.bootstrap import Estimate
from moe_watch.routing.stats.timing_noise import Noise
from moe_watch.sessions.measuring.estimates import Estimates, FittedRun, verdicts
from moe_watch.sessions.measuring.plan import Plan, PlanRecord
from moe_watch.sessions.measuring.recorded_run import RecordedRun
from moe_watch.sessions.results.cost import NoiseResult
from moe_watch.sessions.results.measurement import (
    AnalysisResult,
    BoundaryResult,
    ControlResult,
    DecayShape,
    EnergyResult,
    EstimateResult,
    MeanTrajectory,
    MeasuredBackend,
    MeasuredModel,
    MeasuredRun,
    MeasurementReport,
    MeasurementResult,
    RunConfig,
    SeriesStatistics,
    TrajectoryResult,
)


def results(findings: Estimates) -> MeasurementResult:
    """Return the content of `results.json`."""
    header = findings.plain[0].run.header
    return MeasurementResult(
        format="moe-watch measurement 1",
        model=convert(header.model, MeasuredModel, from_attributes=True),
        backend=convert(header.backend, MeasuredBackend, from_attributes=True),
        pressure=findings.mode,
        warm_up_chunks=WARM_UP_CHUNKS,
        plan=to_builtins(PlanRecord.of(findings.plan)),
        verdicts={**verdicts(findings.plain)},
        mean_trajectory=MeanTrajectory(
            mid_pressures=findings.mean.tolist(),
            std=None if findings.spread is None else findings.spread.tolist(),
            fit=fit_result(findings.mean_fit),
        ),
        control=_control(findings.control, findings) if findings.control else None,
        external_energy=_energy(findings.energy, findings),
        runs=[_run(each, findings.plan) for each in findings.plain],
        late_runs=[_run(each, findings.plan) for each in findings.late],
    )


def with_noise(found: MeasurementResult, noise: Mapping[str, Noise | None]) -> MeasurementReport:
    """Return results with the load on the machine by session file, as `measure --json` prints them."""
    loads = {file: noise_result(each) if each else None for file, each in noise.items()}
    return MeasurementReport(**structs.asdict(found), noise=loads)


def noise_result(noise: Noise) -> NoiseResult:
    """Return the load on the machine as it is printed."""
    return convert(noise, NoiseResult, from_attributes=True)


def to_bytes(found: MeasurementResult) -> bytes:
    """Return the content of `results.json` as UTF-8."""
    text = json.dumps(to_builtins(found), indent=1, allow_nan=False, ensure_ascii=False)
    return (text + "\n").encode("utf-8", "replace")


def _run(fitted: FittedRun, plan: Plan) -> MeasuredRun:
    run, header = fitted.run, fitted.run.header
    return MeasuredRun(
        run=run.planned.number,
        session=run.planned.file,
        protocol="natural_decay",
        model=header.model.name,
        prompt=header.prompt,
        config=RunConfig(
            chunk_size=header.chunk_size,
            max_chunks=plan.chunks,
            total_chunks=WARM_UP_CHUNKS + len(run.chunks),
            total_tokens=run.tokens,
            seed=header.sampling.seed,
        ),
        trajectory=_trajectory(run),
        analysis=_analysis(fitted.fit.reference, fitted.fit.crossing),
        fit=fit_result(fitted.fit, entropy_collapse(run.entropy)),
        prompt_tokens=run.prompt_tokens,
        would_stop_at_chunks=[run.chunk_of(i) for i in run.stops],
        generated_text=run.text,
    )


def _trajectory(run: RecordedRun) -> TrajectoryResult:
    chunks = run.chunks
    return TrajectoryResult(
        chunk_indices=list(range(len(chunks))),
        session_chunks=[chunk.index for chunk in chunks],
        mid_pressures=run.mid,
        net_pressures=[chunk.pressures.net for chunk in chunks],
        fast_pressures=[chunk.pressures.fast for chunk in chunks],
        slow_pressures=[chunk.pressures.slow for chunk in chunks],
        entropies=run.entropy,
        residual_intents=[chunk.residual for chunk in chunks],
    )


def _analysis(numbers: ReferenceNumbers, crossing: int | None) -> AnalysisResult:
    return AnalysisResult(
        initial_pressure=numbers.initial_pressure,
        final_pressure=numbers.final_pressure,
        total_decay=numbers.total_decay,
        half_life_chunks=crossing,
        decay_shape=convert(numbers, DecayShape, from_attributes=True),
        statistics=convert(numbers, SeriesStatistics, from_attributes=True),
    )


def _control(control: PositionControl, findings: Estimates) -> ControlResult:
    return ControlResult(
        shift_chunks=control.shift,
        trend=estimate(control.trend),
        position=estimate(control.position),
        age=estimate(control.age),
        separable=control.separable,
        late_verdicts={**verdicts(findings.late)},
    )


def _energy(energy: ExternalEnergy | None, findings: Estimates) -> EnergyResult | None:
    forks = findings.plan.spec.forks
    if energy is None or forks is None:
        return None
    return EnergyResult(
        text=forks.text,
        neutral=forks.neutral,
        boundaries=energy.boundaries,
        replicates=energy.replicates,
        arms={str(arm): mean for arm, mean in energy.arms.items()},
        text_minus_neutral=estimate(energy.text_minus_neutral),
        text_minus_none=estimate(energy.text_minus_none),
        neutral_minus_none=estimate(energy.neutral_minus_none),
        by_boundary=[_boundary(each) for each in findings.boundaries],
    )


def _boundary(boundary: Boundary) -> BoundaryResult:
    return BoundaryResult(
        run=boundary.run,
        i=boundary.i,
        none=boundary.mean("none"),
        neutral=boundary.mean("neutral"),
        text=boundary.mean("text"),
    )


def estimate(found: Estimate) -> EstimateResult:
    """Return a mean with its 95 % interval as it is printed."""
    return EstimateResult(mean=found.mean, interval=found.interval, clusters=found.clusters)
