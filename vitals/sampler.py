"""One reading of the whole machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from moe_watch.routing.events import Vitals
from moe_watch.vitals.heat import Temperatures, Throttling
from moe_watch.vitals.memory import ProcessMemory, Swap, SystemMemory
from moe_watch.vitals.pressure import system_pressure
from moe_watch.vitals.provider import Provider, UnavailableError


class VitalsSampler:
    """Reads all providers into one event. A source that fails is named with its reason, and never stops a run.

    Args:
        clock: seconds since the run began.
        worker_pid: the process that runs the model, or None while there is none.
        providers: what to read; this machine's own sources by default.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        worker_pid: Callable[[], int | None],
        providers: Sequence[Provider] | None = None,
    ) -> None:
        self._clock = clock
        self._providers = system_providers(worker_pid) if providers is None else providers

    def read(self) -> Vitals:
        """The machine now."""
        values: dict[str, Any] = {}
        unavailable: dict[str, str] = {}
        for provider in self._providers:
            try:
                read = dict(provider.read())
                unavailable.update(read.pop("unavailable", {}))
                values.update(read)
            except UnavailableError as reason:
                unavailable.update(dict.fromkeys(provider.fields, str(reason)))
            except Exception as error:  # a broken sensor, of whatever kind, is no reason to lose a run
                unavailable.update(dict.fromkeys(provider.fields, f"reading failed: {error}"))
        return Vitals(t=self._clock(), **values, unavailable=unavailable)


def system_providers(worker_pid: Callable[[], int | None]) -> list[Provider]:
    """Every source there may be on this machine."""
    return [
        SystemMemory(),
        Swap(),
        ProcessMemory("process_memory", os.getpid),
        ProcessMemory("worker_memory", worker_pid),
        system_pressure(),
        Temperatures(),
        Throttling(),
    ]
