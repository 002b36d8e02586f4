"""What the runs of a measurement come to together."""

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
    """A run and what its mid-pressure does. Chunk 0 of a fit is the first measured one."""

    run: RecordedRun
    fit: Fit


@dataclass(frozen=True, slots=True)
class Estimates:
    """Everything that a measurement has to say."""

    plan: Plan
    plain: list[FittedRun]
    late: list[FittedRun]
    mean: Floats
    """P_mid of each measured chunk, mean over plain runs `[chunks]`."""
    spread: Floats | None
    """Standard deviation over plain runs (ddof 1) `[chunks]`; None for a single run."""
    mean_fit: Fit
    """Of that mean: noise that runs do not share is averaged out of it."""
    control: PositionControl | None
    boundaries: list[Boundary]
    """Of all plain runs."""
    energy: ExternalEnergy | None

    @property
    def mode(self) -> str:
        """The pressure mode."""
        return self.plain[0].run.header.pressure


def analyse(measured: MeasuredRuns) -> Estimates:
    """Fit every run, and put them together."""
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
    """How many runs got which verdict."""
    counts = Counter(each.fit.verdict for each in runs)
    return {verdict: counts[verdict] for verdict in VERDICTS}


def _twins(measured: MeasuredRuns) -> list[tuple[RecordedRun, RecordedRun]]:
    return list(zip(measured.plain, measured.late, strict=True)) if measured.late else []


def _pair(plain: RecordedRun, late: RecordedRun) -> TwinPair:
    """Two twins, by as many whole chunks apart as their prompts differ in length."""
    shift = round((late.prompt_tokens - plain.prompt_tokens) / plain.header.chunk_size)
    return TwinPair(plain.mid, late.mid, shift)
