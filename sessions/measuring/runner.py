"""Execution of a measurement: every run once, also over several attempts."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from moe_watch.backends.protocol import Load
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import BackendInfo, ModelInfo, Progress, State, StreamItem
from moe_watch.routing.pressure.missing_signals import DENSE
from moe_watch.sessions.live.environment import Surroundings
from moe_watch.sessions.live.headless import run_headless
from moe_watch.sessions.live.shared_worker import KeptWorker
from moe_watch.sessions.live.source import LiveSource
from moe_watch.sessions.measuring.folder import claimed, creating
from moe_watch.sessions.measuring.machine_noise import keep_noise
from moe_watch.sessions.measuring.plan import Plan, PlannedRun
from moe_watch.sessions.measuring.recorded_run import NotWholeError, RecordedRun, read_run
from moe_watch.sessions.reading.multipart import numbered_beside
from moe_watch.vitals.noise import NoiseMeter

CONTINUE = "the same command continues from here"


class Watcher(Protocol):
    """Observer of a measurement's progress."""

    def loading(self, progress: Progress) -> None:
        """Report the loading of the model; on any thread."""

    def found(self, run: PlannedRun) -> None:
        """Report a run that is whole already."""

    def begin(self, run: PlannedRun) -> None: ...

    def item(self, item: StreamItem) -> None:
        """Report an item of the present run."""

    def end(self, run: PlannedRun) -> None: ...


@dataclass(frozen=True, slots=True)
class MeasuredRuns:
    """Runs of a measurement."""

    plan: Plan
    plain: list[RecordedRun]
    late: list[RecordedRun]
    """Twins of the baseline runs, in the same order; empty without a control."""


def measure(plan: Plan, folder: Path, watcher: Watcher) -> MeasuredRuns:
    """Generate the missing runs, and read all of them.

    Whole runs are never repeated, and a run that was cut off is repeated, so a killed measurement continues where it
    was; equal seeds give equal runs.

    Raises:
        UserError: the folder has another measurement, the model cannot be used, or a run failed.
        KeyboardInterrupt: interrupted; whole runs stay.
    """
    load = plan.settings(plan.plain_runs()[0], folder).load()
    with claimed(folder, plan), _Attempt(plan, folder, load, watcher) as attempt:
        plain = [attempt.run(each) for each in plan.plain_runs()]
        late = []
        if plan.control:
            for twin in plain:
                donor = plain[plan.donor_of(twin.planned).number - 1]
                late.append(attempt.run(plan.late_twin(twin.planned, donor.beginning)))
        return MeasuredRuns(plan, plain, late)


class _Attempt:
    """Attempt of one process at a measurement. The model is loaded once, and only if a run is missing."""

    def __init__(self, plan: Plan, folder: Path, load: Load, watcher: Watcher) -> None:
        self._plan = plan
        self._folder = folder
        self._load = load
        self._watcher = watcher
        self._exit = ExitStack()
        self._worker: KeptWorker | None = None
        self._measured: tuple[ModelInfo, BackendInfo] | None = None
        """Model and engine of the first run; all others must have the same."""

    def __enter__(self) -> _Attempt:
        return self

    def __exit__(self, *_error: object) -> None:
        self._exit.close()

    def run(self, planned: PlannedRun) -> RecordedRun:
        """Return the run; generates it unless its file is whole."""
        try:
            found = read_run(self._folder, planned, self._plan)
        except NotWholeError:
            return self._make(planned)
        self._require_same(found.header.model, found.header.backend)
        self._watcher.found(planned)
        return found

    def _make(self, planned: PlannedRun) -> RecordedRun:
        worker = self._loaded()
        self._clear(planned)
        self._watcher.begin(planned)
        meter = NoiseMeter()
        self._generate(planned, worker)
        keep_noise(self._folder, planned.file, meter.noise())
        try:
            run = read_run(self._folder, planned, self._plan)
        except NotWholeError as error:
            raise UserError(f"{self._folder / planned.file} is not whole: {error}", advice=CONTINUE) from error
        self._watcher.end(planned)
        return run

    def _clear(self, planned: PlannedRun) -> None:
        """Remove the session and the continuation files of an earlier attempt at a run, and no others."""
        path = self._folder / planned.file
        with creating(self._folder):
            for left in (path, *numbered_beside(path)):
                left.unlink(missing_ok=True)

    def _loaded(self) -> KeptWorker:
        """Return the worker; loads the model on the first call, and checks that it is that of earlier runs."""
        if self._worker is None:
            self._worker = self._exit.enter_context(KeptWorker(self._load, self._watcher.loading))
            ready = self._worker.ready
            if ready.model.is_dense:  # a model that was downloaded just now
                raise UserError(f"{ready.model.name}: {DENSE}", advice="record it with `moe-watch record`")
            _require_room(self._plan, ready.model)
            self._require_same(ready.model, ready.backend)
        return self._worker

    def _require_same(self, model: ModelInfo, backend: BackendInfo) -> None:
        if self._measured is None:
            self._measured = (model, backend)
        elif names := _differences(self._measured[0], model) + _differences(self._measured[1], backend):
            raise UserError(
                f"{self._folder}: begun with another model or engine ({', '.join(names)} differ)",
                advice="give another --out",
            )

    def _generate(self, planned: PlannedRun, worker: KeptWorker) -> None:
        """Generate one run to its end."""
        source = LiveSource(self._plan.settings(planned, self._folder), Surroundings(worker=worker.lend))
        states: list[State] = []

        def take(item: StreamItem) -> None:
            if isinstance(item, State):
                states.append(item)
            self._watcher.item(item)

        run_headless(source, take)
        if source.fatal_error is not None:
            raise source.fatal_error
        if source.recording.problem:
            raise UserError(f"{planned.file}: {source.recording.problem}", advice=CONTINUE)
        last = states[-1]
        if last.state == "error":
            raise UserError(f"{planned.file}: {last.message or 'the run failed'}", advice=CONTINUE)
        if last.why == "user":
            raise KeyboardInterrupt


def _require_room(plan: Plan, model: ModelInfo) -> None:
    """Refuse a run that does not fit into the context, before an hour is spent on its first part."""
    needed = plan.tokens + (plan.shift if plan.control else 0)
    if model.context_length is not None and needed >= model.context_length:
        with_control = f", {plan.shift:,} of them before the control's prompt" if plan.control else ""
        raise UserError(
            f"a run takes {needed:,} tokens and its prompt{with_control}, the context of {model.name} holds"
            f" {model.context_length:,}",
            advice="measure fewer chunks" + (", or add --no-control" if plan.control else ""),
        )


def _differences(one: ModelInfo | BackendInfo, other: ModelInfo | BackendInfo) -> list[str]:
    """Return the names of the fields that differ."""
    return [name for name in one.__struct_fields__ if getattr(one, name) != getattr(other, name)]
