"""Results of a measurement as JSON. They are computed from its session files alone, so they include no times.

Each run has the keys of ChronoMoE's measurement, with the same meaning, and additional ones. All keys:
docs/experiments.md, "results.json".
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from moe_watch.routing.half_life.chronomoe import ReferenceNumbers, entropy_collapse
from moe_watch.routing.half_life.fit_json import fit_result
from moe_watch.routing.pressure.external_energy import ARMS, ExternalEnergy
from moe_watch.routing.pressure.formulas import WARM_UP_CHUNKS
from moe_watch.routing.pressure.position_control import PositionControl
from moe_watch.routing.stats.bootstrap import Estimate
from moe_watch.sessions.measuring.estimates import Estimates, FittedRun, verdicts
from moe_watch.sessions.measuring.plan import Plan, PlanRecord
from moe_watch.sessions.measuring.recorded_run import RecordedRun

Json = dict[str, Any]

FORMAT = "moe-watch measurement 1"


def results(findings: Estimates) -> Json:
    """Return the content of `results.json`."""
    header = findings.plain[0].run.header
    energy, control = findings.energy, findings.control
    return {
        "format": FORMAT,
        "model": _of(header.model, "name", "architecture", "layers", "experts", "experts_per_token", "quantization")
        | {"fingerprint": header.model.fingerprint},
        "backend": _of(header.backend, "name", "version", "device", "dtype"),
        "pressure": findings.mode,
        "warm_up_chunks": WARM_UP_CHUNKS,
        "plan": msgspec.to_builtins(PlanRecord.of(findings.plan)),
        "verdicts": verdicts(findings.plain),
        "mean_trajectory": {
            "mid_pressures": findings.mean.tolist(),
            "std": None if findings.spread is None else findings.spread.tolist(),
            "fit": fit_result(findings.mean_fit),
        },
        "control": None if control is None else _control(control, findings),
        "external_energy": None if energy is None else _energy(energy, findings),
        "runs": [_run(each, findings.plan) for each in findings.plain],
        "late_runs": [_run(each, findings.plan) for each in findings.late],
    }


def to_bytes(found: Json) -> bytes:
    """Encode the results as in `results.json`."""
    return (json.dumps(found, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode("utf-8", "replace")


def _run(fitted: FittedRun, plan: Plan) -> Json:
    run, header = fitted.run, fitted.run.header
    return {
        "run": run.planned.number,
        "session": run.planned.file,
        "protocol": "natural_decay",
        "model": header.model.name,
        "prompt": header.prompt,
        "config": {
            "chunk_size": header.chunk_size,
            "max_chunks": plan.chunks,
            "total_chunks": WARM_UP_CHUNKS + len(run.chunks),
            "total_tokens": run.tokens,
            "seed": header.sampling.seed,
        },
        "trajectory": _trajectory(run),
        "analysis": _analysis(fitted.fit.reference, fitted.fit.crossing),
        "fit": fit_result(fitted.fit, entropy_collapse(run.entropy)),
        "prompt_tokens": run.prompt_tokens,
        "would_stop_at_chunks": [run.chunk_of(i) for i in run.stops],
        "generated_text": run.text,
    }


def _trajectory(run: RecordedRun) -> Json:
    """Return the measured chunks; `chunk_indices` count from the first of them, `session_chunks` as in the session."""
    chunks = run.chunks
    return {
        "chunk_indices": list(range(len(chunks))),
        "session_chunks": [chunk.index for chunk in chunks],
        "mid_pressures": run.mid,
        "net_pressures": [chunk.pressures.net for chunk in chunks],
        "fast_pressures": [chunk.pressures.fast for chunk in chunks],
        "slow_pressures": [chunk.pressures.slow for chunk in chunks],
        "entropies": run.entropy,
        "residual_intents": [chunk.residual for chunk in chunks],
    }


def _analysis(numbers: ReferenceNumbers, crossing: int | None) -> Json:
    return {
        "initial_pressure": numbers.initial_pressure,
        "final_pressure": numbers.final_pressure,
        "total_decay": numbers.total_decay,
        "half_life_chunks": crossing,
        "decay_shape": _of(numbers, "linear_slope", "exponential_tau", "max_single_drop", "max_drop_at_chunk"),
        "statistics": _of(numbers, "mean", "std", "min", "max"),
    }


def _control(control: PositionControl, findings: Estimates) -> Json:
    return {
        "shift_chunks": control.shift,
        "trend": estimate(control.trend),
        "position": estimate(control.position),
        "age": estimate(control.age),
        "separable": control.separable,
        "late_verdicts": verdicts(findings.late),
    }


def _energy(energy: ExternalEnergy, findings: Estimates) -> Json | None:
    forks = findings.plan.spec.forks
    return (
        None
        if forks is None
        else {
            "text": forks.text,
            "neutral": forks.neutral,
            "boundaries": energy.boundaries,
            "replicates": list(energy.replicates),
            "arms": energy.arms,
            "text_minus_neutral": estimate(energy.text_minus_neutral),
            "text_minus_none": estimate(energy.text_minus_none),
            "neutral_minus_none": estimate(energy.neutral_minus_none),
            "by_boundary": [
                {"run": each.run, "i": each.i, **{arm: each.mean(arm) for arm in ARMS}} for each in findings.boundaries
            ],
        }
    )


def estimate(found: Estimate) -> Json:
    """Return a mean with its 95 % interval, which is null if there are too few clusters."""
    interval = None if found.interval is None else list(found.interval)
    return {"mean": found.mean, "interval": interval, "clusters": found.clusters}


def _of(value: object, *names: str) -> Json:
    return {name: getattr(value, name) for name in names}
