"""Reader of all vitals of the machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from moe_watch.routing.events import Vitals
from moe_watch.vitals.cgroup import LimitedGroup
from moe_watch.vitals.heat.probe import heat_providers
from moe_watch.vitals.memory import GroupEvents, ProcessMemory, Swap, SystemMemory
from moe_watch.vitals.pressure import system_pressure
from moe_watch.vitals.provider import Provider, UnavailableError
from moe_watch.vitals.thresholds import MemoryThresholds
from moe_watch.vitals.worker_disk import WorkerDisk


class VitalsSampler:
    """Reader of all providers into one event. A provider that fails is listed with its reason; it never stops a run.

    Args:
        clock: function that returns seconds since the start of the run.
        worker_pid: function that returns the process id of the worker, or None while there is none.
        providers: providers to read; by default all of this machine.
        thresholds: of the memory pressure level; used by the default providers.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        worker_pid: Callable[[], int | None],
        providers: Sequence[Provider] | None = None,
        thresholds: MemoryThresholds | None = None,
    ) -> None:
        self._clock = clock
        self._providers = system_providers(worker_pid, thresholds) if providers is None else providers

    def read(self) -> Vitals:
        """Read all providers now."""
        values: dict[str, Any] = {}
        unavailable: dict[str, str] = {}
        for provider in self._providers:
            try:
                read = dict(provider.read())
                unavailable.update(read.pop("unavailable", {}))
                values.update(read)
            except UnavailableError as reason:
                unavailable.update(dict.fromkeys(provider.fields, str(reason)))
            except Exception as error:  # a broken sensor must not end a run
                unavailable.update(dict.fromkeys(provider.fields, f"reading failed: {error}"))
        return Vitals(t=self._clock(), **values, unavailable=unavailable)


def system_providers(
    worker_pid: Callable[[], int | None], thresholds: MemoryThresholds | None = None
) -> list[Provider]:
    """Return all providers that this machine may have, in the order in which they are read."""
    group = LimitedGroup()
    memory, swap, events = SystemMemory(group=group.memory), Swap(), GroupEvents(group.events)
    return [
        memory,
        swap,
        events,
        system_pressure(memory, swap, events, group, thresholds or MemoryThresholds()),
        ProcessMemory("process_memory", os.getpid),
        ProcessMemory("worker_memory", worker_pid),
        WorkerDisk(worker_pid),
        *heat_providers(),
    ]
