"""Temperatures of all sensors, named and checked for plausibility."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import psutil

from moe_watch.routing.events import Temperature
from moe_watch.vitals.heat.plausible import doubt
from moe_watch.vitals.provider import UnavailableError

NO_SENSORS = "the system shows no temperature sensors, as is usual in virtual machines and containers"

HIGHEST_LIMIT = 1000.0
"""Limit in °C above which a `high` value is ignored: some drives without a limit report 65261.85 °C."""

Measure = Callable[[], Mapping[str, Sequence[Any]]]
"""Returns the readings of each chip: `label`, `current`, `high` and `critical`."""


class Temperatures:
    """Readings of all sensors of some sources, under the names that the sources give.

    Args:
        sources: by default `psutil.sensors_temperatures`, which not every system has. A source raises
            `UnavailableError` if it cannot be used; that counts if no other source has a sensor.
        platform: name of the system, for the reason if there is no source.
    """

    fields = ("temperatures",)

    def __init__(self, *sources: Measure, platform: str = sys.platform) -> None:
        default = getattr(psutil, "sensors_temperatures", None)
        self._sources = sources or (() if default is None else (default,))
        self._platform = platform

    def read(self) -> Mapping[str, Any]:
        if not self._sources:
            raise UnavailableError(f"psutil reads no temperatures on {self._platform}")
        found: list[Temperature] = []
        doubted: dict[str, str] = {}
        reasons: list[str] = []
        names: dict[str, int] = {}
        for source in self._sources:
            try:
                chips = source()
            except UnavailableError as error:
                reasons.append(str(error))
                continue
            for chip, entries in chips.items():
                for entry in entries:
                    name = _unique(_sensor_name(chip, entry.label), names)
                    if (why := doubt(entry.label, entry.current)) is not None:
                        doubted[name] = why
                    else:
                        limits = {"high": _limit(entry.high), "critical": _limit(entry.critical)}
                        found.append(Temperature(sensor=name, celsius=entry.current, **limits))
        if not found:
            raise UnavailableError("; ".join([_none_of(doubted)] if doubted else reasons or [NO_SENSORS]))
        return {"temperatures": found, "unavailable": doubted}


def _unique(name: str, names: dict[str, int]) -> str:
    """Return a name that no sensor before has: the second drive's `nvme Composite` is `nvme Composite #2`."""
    names[name] = names.get(name, 0) + 1
    return name if names[name] == 1 else f"{name} #{names[name]}"


def _sensor_name(chip: str, label: str) -> str:
    return f"{chip} {label}" if label else chip


def _none_of(doubted: Mapping[str, str]) -> str:
    """Return the reason why no sensor is plausible."""
    (name, why), *others = doubted.items()
    more = f", and {len(others)} more like it" if others else ""
    return f"no plausible reading ({name}: {why}{more})"


def _limit(high: float | None) -> float | None:
    return high if high is not None and 0 < high < HIGHEST_LIMIT else None
