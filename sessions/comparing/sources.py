"""Sources of a comparison: sessions, measurements of many runs, and P_mid series, each read into its runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from string import ascii_uppercase
from typing import Literal

import msgspec
import numpy as np
from msgspec import UNSET

from moe_watch.routing.arrays import Ints
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Chunk, Event, Header, Unknown
from moe_watch.routing.half_life.chronomoe import EntropyCollapse, entropy_collapse
from moe_watch.routing.half_life.fit import Fit, fit_half_life, too_long, too_short
from moe_watch.routing.half_life.series import MidSeries
from moe_watch.routing.pressure.formulas import MODES, MODES_OFFERED
from moe_watch.routing.pressure.missing_signals import lacking_signals
from moe_watch.routing.results import Quantity, RunSummary
from moe_watch.routing.summary import Summary
from moe_watch.sessions.comparing.machine import MachineMeter, RunMachine
from moe_watch.sessions.fitting.file_fit import SNIFFED, RecordedSeries, is_session
from moe_watch.sessions.fitting.pressure_series import PressureSeries, parse_series, read_content
from moe_watch.sessions.live.teacher_forcing import no_token
from moe_watch.sessions.measuring.plan import read_plan
from moe_watch.sessions.reading.multipart import RunReader
from moe_watch.sessions.reading.recompute import Recomputed
from moe_watch.sessions.text import PRUNED, masks_text

Kind = Literal["session", "measurement", "series"]


@dataclass(frozen=True, slots=True)
class ComparedRun:
    """The quantities of one run that are compared."""

    name: str
    mid: list[float]
    """P_mid of measured chunks."""
    positions: list[int]
    """Index of each of these chunks in its run."""
    fit: Fit | None
    unavailable: str
    """Reason that there is no fit; empty if there is one."""
    collapse: EntropyCollapse | None
    summary: RunSummary | None = None
    """Summary of a session; None for a P_mid series."""
    machine: RunMachine | None = None
    """Speed and vitals of a session; None for a P_mid series."""

    @property
    def half_life(self) -> float:
        """Half-life in chunks; infinite if the run has none."""
        return inf if self.fit is None or self.fit.half_life is None else self.fit.half_life


@dataclass(frozen=True, slots=True)
class DecodeUsage:
    """Expert selections of the decode tokens of all runs of a source."""

    counts: Ints
    """Selections `[L, E]`."""
    rows: Ints
    """Rows with these selections `[L]`."""


@dataclass(frozen=True, slots=True)
class ComparedSource:
    """One compared source."""

    path: Path
    kind: Kind
    runs: list[ComparedRun]
    header: Header | None
    """Header of its first session; None for a P_mid series."""
    mode: str | None
    """Pressure mode of its runs; None if unknown."""
    warnings: list[str] = field(default_factory=list)
    """Warnings for the user, one line each."""

    @property
    def fits(self) -> list[Fit]:
        """Fits of the runs that could be fitted."""
        return [run.fit for run in self.runs if run.fit is not None]

    @property
    def usage(self) -> DecodeUsage | None:
        """Selections of decode tokens over all runs; None for a P_mid series."""
        found = [summary.usage.decode for summary in self._summaries]
        if not found:
            return None
        return DecodeUsage(
            np.sum([each.counts for each in found], axis=0), np.sum([each.rows for each in found], axis=0)
        )

    def mean(self, quantity: Quantity) -> float | None:
        """Return the mean over runs of a quantity of their summaries; None if no run has it."""
        means = [summary.mean_of(quantity) for summary in self._summaries]
        values = [each for each in means if each is not None]
        return float(np.mean(values)) if values else None

    @property
    def masks(self) -> str:
        """Experts that were off in its runs, in words; empty if all were on throughout."""
        found = dict.fromkeys(masks_text(summary.masks) for summary in self._summaries)
        return " or ".join(each or "none" for each in found) if any(found) else ""

    @property
    def is_dense(self) -> bool:
        """True if its model has no MoE layers."""
        return self.header is not None and self.header.model.is_dense

    @property
    def tokens_per_second(self) -> float | None:
        """Mean over runs of the decode speed; None if no run has it."""
        found = [speed for machine in self._machines if (speed := machine.tokens_per_second) is not None]
        return float(np.mean(found)) if found else None

    @property
    def worker_memory(self) -> int | None:
        """Largest memory of the model's process over all runs, in bytes; None if no run has it."""
        return max((each.worker_memory for each in self._machines if each.worker_memory is not None), default=None)

    @property
    def celsius(self) -> float | None:
        """Highest temperature over all runs; None if no run has one."""
        return max((each.celsius for each in self._machines if each.celsius is not None), default=None)

    @property
    def _machines(self) -> list[RunMachine]:
        return [run.machine for run in self.runs if run.machine is not None]

    @property
    def _summaries(self) -> list[RunSummary]:
        return [run.summary for run in self.runs if run.summary is not None]


def letter(at: int) -> str:
    """Return the label of a source by its position: A to Z, then numbers from 27 on."""
    return ascii_uppercase[at] if at < len(ascii_uppercase) else str(at + 1)


def read_source(path: Path, mode: str | None = None) -> ComparedSource:
    """Read a session file, a folder of `moe-watch measure`, or a file with one series or several.

    Args:
        path: file or folder.
        mode: pressure mode: for sessions, the mode to compute (by default the session's); for series, their mode.

    Raises:
        UserError: it holds nothing that can be compared.
    """
    if mode is not None and mode not in MODES:
        raise UserError(f"there is no pressure mode called {mode!r}", advice=f"use {MODES_OFFERED}")
    if path.is_dir():
        return _read_folder(path, mode)
    if is_session(read_content(path, SNIFFED)):
        return _read_session(path, mode)
    return _read_series(path, mode)


def _read_session(path: Path, mode: str | None) -> ComparedSource:
    warnings: list[str] = []
    header, run = _session_run(path, mode, warnings)
    return ComparedSource(path, "session", [run], header, header.pressure, [*_of_header(path, header), *warnings])


def _read_folder(path: Path, mode: str | None) -> ComparedSource:
    """Read the baseline runs of a measurement; late twins are another experiment."""
    plan = read_plan(path)
    if plan is None:
        raise UserError(f"{path}: not a measurement", advice="give a folder of `moe-watch measure`, or a session")
    files = [path / run.file for run in plan.plain_runs()]
    there = [file for file in files if file.is_file()]
    if not there:
        raise UserError(f"{path}: the measurement has no runs", advice="run the same `moe-watch measure` again")
    warnings = [] if len(there) == len(files) else [f"{path}: {len(there)} of {len(files)} runs exist"]
    read = [_session_run(file, mode, warnings) for file in there]
    header = read[0][0]
    for file, (other, _) in zip(there, read, strict=True):
        if (other.model, other.pressure) != (header.model, header.pressure):
            raise UserError(f"{file}: another model than {there[0].name}", advice="measure again in a new folder")
    runs = [run for _, run in read]
    return ComparedSource(path, "measurement", runs, header, header.pressure, [*_of_header(path, header), *warnings])


def _of_header(path: Path, header: Header) -> list[str]:
    """Return the header's warnings about the model: a setting that the engine ignores makes it another model."""
    pruned = [] if header.model.expert_ids is UNSET else [PRUNED]
    return [f"{path}: {warning}" for warning in (*header.warnings, *pruned)]


def _session_run(path: Path, mode: str | None, warnings: list[str]) -> tuple[Header, ComparedRun]:
    """Read one session; its chunks are recomputed from its tokens."""
    with closing(RunReader(path)) as reader:
        header = _in_that_mode(reader.header, mode)
        series, summary, machine = RecordedSeries(header.pressure), Summary(), MachineMeter()
        for event in _in_mode(reader, header):
            series.feed(event)
            summary.feed(event)
            machine.feed(event)
    found = summary.result()
    if found is None or not found.tokens.total:
        raise no_token(path, header)
    run = _run(path.name, series, found, lacking_signals(header, header.pressure), machine.result())
    warnings += [*reader.warnings, *series.warnings(path, run.fit)]
    if len(series.contexts) > 1:
        there = f"of {series.contexts[0].number} to {series.current.number}"
        which = f"pressure is compared over context {series.judged.number} ({there})"
        warnings.append(f"{path}: {which}; usage, entropy and churn over all contexts")
    return header, run


def _in_mode(reader: RunReader, header: Header) -> Iterator[Event | Unknown]:
    """Yield the events of a run, with chunks in the pressure mode of this header."""
    recomputed = Recomputed(header, set())
    for event in reader:
        if isinstance(event, Header):
            yield header
        elif not isinstance(event, Chunk) or header.pressure == reader.header.pressure:
            yield from recomputed.feed(event)


def _in_that_mode(header: Header, mode: str | None) -> Header:
    """Return the header, with the pressure mode to compute."""
    return header if mode is None else msgspec.structs.replace(header, pressure=mode)


def _run(name: str, series: MidSeries, summary: RunSummary, lacking: str, machine: RunMachine) -> ComparedRun:
    fit = series.fit()
    return ComparedRun(
        name=name,
        mid=series.mid,
        positions=series.positions,
        fit=fit,
        unavailable=(fit is None and lacking) or series.unavailable,
        collapse=series.entropy_collapse(),
        summary=summary,
        machine=machine,
    )


def _read_series(path: Path, mode: str | None) -> ComparedSource:
    """Read a P_mid series, or the series of a JSON file with several runs in the layout of ChronoMoE's measurement."""
    content = read_content(path)
    found = [parse_series(each, name) for name, each in _runs_within(content, str(path))]
    runs = [_series_run(path, series, mode) for series in found]
    return ComparedSource(path, "measurement" if len(runs) > 1 else "series", runs, None, mode or found[0].mode)


def _runs_within(content: bytes, name: str) -> list[tuple[str, bytes]]:
    """Return the series in a file, each with its name in messages."""
    try:
        found = json.loads(content) if content.lstrip()[:1] == b"{" else None
    except (ValueError, RecursionError):
        found = None
    runs = found.get("runs") if isinstance(found, dict) else None
    if not isinstance(runs, list) or not runs:
        return [(name, content)]
    pressure = {"pressure": found.get("pressure")} if isinstance(found, dict) else {}
    parts = [pressure | run if isinstance(run, dict) else run for run in runs]
    return [(f"{name}, run {at}", json.dumps(part).encode()) for at, part in enumerate(parts, 1)]


def _series_run(path: Path, series: PressureSeries, mode: str | None) -> ComparedRun:
    why = too_short(len(series.mid)) or too_long(len(series.mid))
    if why:
        raise UserError(f"{path}: {why}", advice="measure a longer run")
    return ComparedRun(
        name=path.name,
        mid=series.mid,
        positions=series.positions or list(range(len(series.mid))),
        fit=fit_half_life(series.mid, mode=mode or series.mode, positions=series.positions),
        unavailable="",
        collapse=entropy_collapse(series.entropies) if series.entropies else None,
    )
