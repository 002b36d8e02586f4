"""Checks of a model before it is loaded: its files, its engine, and its memory."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import get_args

from moe_watch.backends.engine_options import check_support
from moe_watch.backends.engine_sizes import EngineSizes, FailedSizes, SizesItem
from moe_watch.backends.memory.ask import ask_engine
from moe_watch.backends.memory.available import AvailableMemory, available_memory
from moe_watch.backends.memory.need import Need
from moe_watch.backends.model_files.catalog import (
    ENGINE_OF_FORMAT,
    ENGINES,
    ModelLocation,
    choose_backend,
    locate,
    missing_packages,
)
from moe_watch.backends.model_files.preflight import preflight
from moe_watch.backends.optional_packages import install_command
from moe_watch.backends.protocol import BackendChoice, EngineOptions
from moe_watch.backends.prune_record import record_at
from moe_watch.routing.errors import UserError
from moe_watch.sessions.checking.results import CheckResult, failure, fine, gigabytes, warning
from moe_watch.vitals.cgroup import group_memory

FILES, ENGINE, MEMORY = "model files", "model engine", "model memory"

AskSizes = Callable[[str, Sequence[SizesItem]], Sequence[EngineSizes | FailedSizes]]


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckedModel:
    """Model to check, with the options of a run."""

    name: str
    """As the user typed it."""
    location: ModelLocation
    backend: BackendChoice = "auto"
    options: EngineOptions = field(default_factory=EngineOptions)

    @classmethod
    def find(cls, name: str, backend: str, options: EngineOptions) -> CheckedModel:
        """Find a model by its name.

        Raises:
            UserError: there is no such model or engine, the engine does not read its format, or does not support an
                option. A missing package is no such error.
        """
        location = locate(name, backend)
        chosen = ENGINE_OF_FORMAT[location.format] if backend == "auto" else backend
        if backend not in get_args(BackendChoice) or ENGINES[chosen].reads != location.format:
            choose_backend(backend, location)
        check_support(chosen, options)
        return cls(name=name, location=location, backend=backend, options=options)  # type: ignore[arg-type]  # checked

    @property
    def engine(self) -> str:
        """Engine that loads it."""
        return ENGINE_OF_FORMAT[self.location.format] if self.backend == "auto" else self.backend

    @property
    def command(self) -> str:
        """The model's name, quoted for a shell."""
        return shlex.quote(self.name)


def files_check(model: CheckedModel) -> CheckResult:
    """Check that the model is on this machine, and that its files are whole as far as their headers show."""
    location = model.location
    if location.path is None:
        return failure(
            FILES,
            "not on this machine",
            f"download it first: `moe-watch watch {model.command}` does; `moe-watch models` lists the models here",
        )
    try:
        preflight(location)
    except UserError as error:
        return failure(FILES, error.what, error.advice)
    record = record_at(location.path)
    pruned = "" if record is None else f"; pruned, {record.experts} experts before"
    return fine(FILES, f"{location.path}{pruned}")


def engine_choice_check(model: CheckedModel) -> CheckResult:
    """Check that the engine that reads the model's format is installed."""
    entry = ENGINES[model.engine]
    if lacking := missing_packages(entry):
        advice = f"run `{install_command(entry.extra)}`"
        return failure(ENGINE, f"{model.engine} is not installed ({', '.join(lacking)})", advice)
    return fine(ENGINE, model.engine)


def memory_check(
    model: CheckedModel,
    *,
    ask: AskSizes = ask_engine,
    available: Callable[[], AvailableMemory] = lambda: available_memory(group_memory),
) -> CheckResult:
    """Compare the memory that the engine will take with the memory that is available.

    Args:
        model: a model on this machine.
        ask: asks the engine, which computes the sizes without reading the weights.
        available: reads the memory that is available now.
    """
    [sizes] = ask(model.engine, [SizesItem(model=str(model.location.path), options=model.options)])
    if isinstance(sizes, FailedSizes):
        return failure(MEMORY, sizes.what, sizes.advice)
    need, left = Need(sizes), available()
    needed = f"{gigabytes(need.total)} needed"
    if left.counts_mapped_files:
        needed = f"{gigabytes(need.compared(left))} of address space needed"
    value = f"{needed} (context {sizes.context:,}), {gigabytes(left.bytes)} {left.words}"
    advice = f"`moe-watch memory {model.command}` lists settings that take less"
    if need.fits(left):
        return fine(MEMORY, value)
    if need.starts(left):
        return warning(MEMORY, f"{value}: it starts, and weights are read from the disk again for every token", advice)
    return failure(MEMORY, f"{value}: it does not fit", advice)
