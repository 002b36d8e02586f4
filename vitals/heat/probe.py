"""Providers of heat on this machine, and the check that a processor's temperature can be read."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from moe_watch.routing.events import Vitals
from moe_watch.vitals.heat import nvidia
from moe_watch.vitals.heat.clocks import AmdGpuClocks, Clocks, LinuxCpuClocks
from moe_watch.vitals.heat.hwmon import LinuxSensors
from moe_watch.vitals.heat.macmon import NOT_YET, Macmon, shared_macmon
from moe_watch.vitals.heat.processor_sensors import hottest
from moe_watch.vitals.heat.temperature import Temperatures
from moe_watch.vitals.heat.thermal_level import MacThermalLevel
from moe_watch.vitals.heat.throttling import KernelCounters, Throttling
from moe_watch.vitals.provider import Provider, UnavailableError

FIRST_REPORT_SECONDS = 3.0
"""Longest wait for the first report of macmon."""


def heat_providers(platform: str = sys.platform, macmon: Callable[[], Macmon] = shared_macmon) -> list[Provider]:
    """Return the providers of temperatures, clocks and throttling of a system."""
    if platform == "darwin":
        reader = macmon()
        return [
            Temperatures(reader.temperatures),
            Clocks(reader.clocks),
            MacThermalLevel(),
            Throttling(KernelCounters(platform=platform)),
        ]
    if platform != "linux":
        return [Temperatures(), Clocks(), Throttling(KernelCounters(platform=platform))]
    counters, gpus = KernelCounters(), nvidia.NvidiaGpus()
    if not nvidia.has_driver():
        return [
            Temperatures(LinuxSensors()),
            Clocks(LinuxCpuClocks(), AmdGpuClocks()),
            Throttling(counters),
        ]
    return [
        Temperatures(LinuxSensors(), gpus.temperatures),
        Clocks(LinuxCpuClocks(), AmdGpuClocks(), gpus.clocks),
        Throttling(counters, gpus.throttling),
        nvidia.NvidiaMemory(gpus),
    ]


def why_no_processor_sensor(providers: list[Provider] | None = None) -> str:
    """Return the reason why no temperature of a CPU or GPU can be read; empty if one can."""
    source = next(each for each in providers or heat_providers() if "temperatures" in each.fields)
    deadline = time.monotonic() + FIRST_REPORT_SECONDS
    while True:
        try:
            found = source.read()["temperatures"]
        except UnavailableError as error:
            if str(error) != NOT_YET or time.monotonic() > deadline:
                return str(error)
            time.sleep(0.1)
            continue
        if hottest(Vitals(t=0.0, temperatures=found)) is not None:
            return ""
        names = ", ".join(each.sensor for each in found[:4])
        return f"the sensors here measure other parts ({names})"
