"""Estimates over all runs of a measurement."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from moe_watch.routing.arrays import Floats
from moe_watch.routing.half_life.fit import VERDICTS, Fit, fit_half_life
from moe_watch.routing.pressure.external_energy import Boundary, ExternalEnergy, external_energy
from moe_watch.routing.pressure.position_control import PositionControl, TwinPair, position_control
from moe_watch.sessions.measuring.plan import Plan
from moe_watch.sessions.measuring.recorded_run import RecordedRun
from moe_watch.sessions.measuring.runner import MeasuredRuns


@dataclass(frozen=True, slots=True)
class FittedRun:
    """Run with the fit of its mid-pressure. Chunk 0 of a fit is the first measured chunk."""

    run: RecordedRun
    fit: Fit


@dataclass(frozen=True, slots=True)
class Estimates:
    """Results of a measurement."""

    plan: Plan
    plain: list[FittedRun]
    late: list[FittedRun]
    mean: Floats
    """P_mid of each measured chunk, mean over baseline runs `[chunks]`."""
    spread: Floats | None
    """Standard deviation over baseline runs (ddof 1) `[chunks]`; None for a single run."""
    mean_fit: Fit
    """Fit of that mean, which averages out the noise that runs do not share."""
    control: PositionControl | None
    boundaries: list[Boundary]
    """Forked boundaries of all baseline runs."""
    energy: ExternalEnergy | None

    @property
    def mode(self) -> str:
        """Pressure mode."""
        return self.plain[0].run.header.pressure


def analyse(measured: MeasuredRuns) -> Estimates:
    """Fit every run, and combine the fits."""
    mode = measured.plain[0].header.pressure
    mid = np.array([run.mid for run in measured.plain])
    mean = mid.mean(axis=0)
    boundaries = [boundary for run in measured.plain for boundary in run.boundaries]
    return Estimates(
        plan=measured.plan,
        plain=[FittedRun(run, fit_half_life(run.mid, mode=mode)) for run in measured.plain],
        late=[FittedRun(run, fit_half_life(run.mid, mode=mode)) for run in measured.late],
        mean=mean,
        spread=mid.std(axis=0, ddof=1) if len(mid) > 1 else None,
        mean_fit=fit_half_life(mean.tolist(), mode=mode),
        control=position_control([_pair(plain, late) for plain, late in _twins(measured)]),
        boundaries=boundaries,
        energy=external_energy(boundaries),
    )


def verdicts(runs: list[FittedRun]) -> dict[str, int]:
    """Return the number of runs per verdict."""
    counts = Counter(each.fit.verdict for each in runs)
    return {verdict: counts[verdict] for verdict in VERDICTS}


def _twins(measured: MeasuredRuns) -> list[tuple[RecordedRun, RecordedRun]]:
    return list(zip(measured.plain, measured.late, strict=True)) if measured.late else []


def _pair(plain: RecordedRun, late: RecordedRun) -> TwinPair:
    """Return a run and its late twin, with the difference of their prompt lengths in whole chunks."""
    shift = round((late.prompt_tokens - plain.prompt_tokens) / plain.header.chunk_size)
    return TwinPair(plain.mid, late.mid, shift)
