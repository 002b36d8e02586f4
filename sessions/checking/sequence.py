"""All checks, one after the other: the machine first, then a model."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from functools import partial

from moe_watch.backends.model_files.catalog import ENGINES
from moe_watch.routing.events import Progress
from moe_watch.sessions.checking.engines import engine_check, processor_check
from moe_watch.sessions.checking.machine import disk_check, memory_check, sensor_checks, settings_check
from moe_watch.sessions.checking.model_files import (
    ENGINE,
    FILES,
    MEMORY,
    CheckedModel,
    engine_choice_check,
    files_check,
)
from moe_watch.sessions.checking.model_files import memory_check as model_memory_check
from moe_watch.sessions.checking.results import CheckResult
from moe_watch.sessions.checking.time_limit import Cancellation, within
from moe_watch.sessions.checking.trial import Report, Trial

ENGINE_SECONDS = 100.0
"""More than `moe_watch.backends.worker.engine_builds.LONGEST_WAIT`, whose message names the cause."""
SECONDS = 15.0
"""Longest time of a check without an engine."""
FILES_SECONDS = 120.0
SIZES_SECONDS = 310.0

Checks = Callable[[], Sequence[CheckResult]]


def machine_checks(cancellation: Cancellation) -> Generator[CheckResult, None, None]:
    """Yield the checks of the machine as they finish.

    Raises:
        Cancelled: the user has left.
    """
    for name in ENGINES:
        yield from within(f"engine {name}", ENGINE_SECONDS, _one(partial(engine_check, name)), cancellation)
    yield processor_check()
    steps: dict[str, Checks] = {
        "memory": _one(memory_check),
        "disk": _one(disk_check),
        "sensors": sensor_checks,
        "settings": _one(settings_check),
    }
    for name, check in steps.items():
        yield from within(name, SECONDS, check, cancellation)


def file_checks(model: CheckedModel, cancellation: Cancellation) -> Generator[CheckResult, None, None]:
    """Yield the checks of a model that is not loaded; the later ones only if the earlier ones did not fail.

    Raises:
        Cancelled: the user has left.
    """
    steps: list[tuple[str, float, Callable[[CheckedModel], CheckResult]]] = [
        (FILES, FILES_SECONDS, files_check),
        (ENGINE, SECONDS, engine_choice_check),
        (MEMORY, SIZES_SECONDS, model_memory_check),
    ]
    for name, seconds, check in steps:
        found = within(name, seconds, _one(partial(check, model)), cancellation)
        yield from found
        if any(each.status == "fail" for each in found):
            return


def model_checks(
    model: CheckedModel, cancellation: Cancellation, report: Report, *, quick: bool = False
) -> Generator[CheckResult, None, None]:
    """Yield the checks of a model as they finish. Close the iterator to end the worker early.

    Args:
        model: the model.
        cancellation: ends every wait.
        report: called with the progress of loading.
        quick: do not load the model.

    Raises:
        Cancelled: the user has left.
    """
    failed = False
    for each in file_checks(model, cancellation):
        failed |= each.status == "fail"
        yield each
    if not quick and not failed:
        yield from Trial(model, cancellation, report).checks()


def silent(_: Progress) -> None:
    """Ignore progress."""


def _one(check: Callable[[], CheckResult]) -> Checks:
    return lambda: [check()]
