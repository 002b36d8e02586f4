"""Temperatures, and throttling of the processor."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

from moe_watch.routing.events import Temperature
from moe_watch.vitals.provider import UnavailableError
from moe_watch.vitals.sensors import doubt

NO_INTERFACE = {"darwin": "macOS has no public interface for temperatures"}
NO_COUNTERS = "the kernel counts throttling for Intel processors only, and not in virtual machines"
NO_SENSORS = "the system shows no temperature sensors, as is usual in virtual machines and containers"

HIGHEST_LIMIT = 1000.0
"""Limit in °C above which a `high` value is ignored: some drives without a limit report 65261.85 °C."""

Measure = Callable[[], Mapping[str, Any]]

_MEASURE: Measure | None = getattr(psutil, "sensors_temperatures", None)


class Temperatures:
    """Readings of all temperature sensors that psutil finds, under the kernel's names.

    Args:
        measure: `psutil.sensors_temperatures`, which not every system has.
        platform: name of the system, for the reason if there is no `measure`.
    """

    fields = ("temperatures",)

    def __init__(self, measure: Measure | None = _MEASURE, platform: str = sys.platform) -> None:
        self._measure = measure
        self._platform = platform

    def read(self) -> Mapping[str, Any]:
        if self._measure is None:
            general = f"psutil reads no temperatures on {self._platform}"
            raise UnavailableError(NO_INTERFACE.get(self._platform, general))
        found: list[Temperature] = []
        doubted: dict[str, str] = {}
        for chip, entries in self._measure().items():
            for entry in entries:
                name = _sensor_name(chip, entry.label)
                if (why := doubt(entry.label, entry.current)) is not None:
                    doubted[name] = why
                else:
                    found.append(Temperature(sensor=name, celsius=entry.current, high=_limit(entry.high)))
        if not found:
            raise UnavailableError(_none_of(doubted) if doubted else NO_SENSORS)
        return {"temperatures": found, "unavailable": doubted}


class Throttling:
    """Throttling of an Intel processor between two readings, from the kernel's event counters.

    Args:
        cpus: folder with a subfolder for each processor.
        platform: name of the system.
    """

    fields = ("throttling",)

    def __init__(self, cpus: Path = Path("/sys/devices/system/cpu"), platform: str = sys.platform) -> None:
        self._cpus = cpus
        self._platform = platform
        self._before: int | None = None

    def read(self) -> Mapping[str, bool]:
        if self._platform != "linux":
            raise UnavailableError(f"moe-watch has no source for throttling on {self._platform}")
        before, self._before = self._before, self._events()
        if before is None:
            raise UnavailableError("available from the second reading on")
        return {"throttling": self._before > before}

    def _events(self) -> int:
        """Return the sum of throttling events since boot; cores of one package may count the same event."""
        counters = sorted(self._cpus.glob("cpu[0-9]*/thermal_throttle/package_throttle_count"))
        if not counters:
            raise UnavailableError(NO_COUNTERS)
        return sum(int(counter.read_text()) for counter in counters)


def _sensor_name(chip: str, label: str) -> str:
    return f"{chip} {label}" if label else chip


def _none_of(doubted: Mapping[str, str]) -> str:
    """Return the reason why no sensor is plausible."""
    (name, why), *others = doubted.items()
    more = f", and {len(others)} more like it" if others else ""
    return f"no plausible reading ({name}: {why}{more})"


def _limit(high: float | None) -> float | None:
    return high if high is not None and 0 < high < HIGHEST_LIMIT else None
