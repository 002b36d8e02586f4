"""Temperatures of Linux: hwmon sensors, and thermal zones that no hwmon sensor repeats.

The folders are listed once a minute. A reading opens one file per sensor; `psutil.sensors_temperatures` lists all
folders and reads all limits every time, and leaves out thermal zones if there is any hwmon sensor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

LISTINGS_APART = 120
"""Number of readings between two listings of the folders: a minute, at two readings per second."""
LONGEST_VALUE = 64
"""Bytes read of one file; a number has at most 12."""
SAME_SENSOR = {"x86_pkg_temp": "coretemp"}
"""Thermal zones that read the sensor of a hwmon chip of another name."""


class SensorReading(NamedTuple):
    """One sensor of a chip, in °C; None for a value that cannot be read."""

    label: str
    current: float | None
    high: float | None = None
    critical: float | None = None


@dataclass(frozen=True, slots=True)
class _Sensor:
    """Sensor with its limits, which are constant."""

    chip: str
    label: str
    input: Path
    high: float | None
    critical: float | None


class LinuxSensors:
    """Reader of all sensors. Call it for the readings by chip.

    Args:
        root: folder of sysfs; `class/hwmon` and `class/thermal` are in it.
    """

    def __init__(self, root: Path = Path("/sys")) -> None:
        self._hwmon = root / "class" / "hwmon"
        self._zones = root / "class" / "thermal"
        self._sensors: list[_Sensor] = []
        self._readings_left = 0

    def __call__(self) -> Mapping[str, Sequence[SensorReading]]:
        """Return the readings by chip. A sensor that was listed and cannot be read has no number."""
        if self._readings_left == 0 or not self._sensors:
            self._sensors = [*self._list_hwmon()]
            chips = {each.chip for each in self._sensors}
            self._sensors += self._list_zones(chips)
            self._readings_left = LISTINGS_APART
        self._readings_left -= 1
        found: dict[str, list[SensorReading]] = {}
        for each in self._sensors:
            reading = SensorReading(each.label, thousandth(each.input), each.high, each.critical)
            found.setdefault(each.chip, []).append(reading)
        return found

    def _list_hwmon(self) -> list[_Sensor]:
        found = []
        for folder in sorted(self._hwmon.glob("hwmon*")):
            for place in (folder, folder / "device"):  # old drivers have their files in `device`
                for value in sorted(place.glob("temp*_input"), key=_number):
                    stem = value.name.removesuffix("_input")
                    chip = text(place / "name") or text(folder / "name") or folder.name
                    limits = (thousandth(place / f"{stem}_{end}") for end in ("max", "crit"))
                    found.append(_Sensor(chip, text(place / f"{stem}_label"), value, *limits))
        return found

    def _list_zones(self, chips: set[str]) -> list[_Sensor]:
        """Return the thermal zones that are not among the chips. The kernel names a zone's chip as the zone."""
        found = []
        for zone in sorted(self._zones.glob("thermal_zone*"), key=_number):
            name = text(zone / "type") or zone.name
            if name.replace("-", "_") in chips or SAME_SENSOR.get(name) in chips:
                continue
            limits: dict[str, float | None] = {}
            for kind in zone.glob("trip_point_*_type"):
                value = thousandth(kind.with_name(kind.name.removesuffix("_type") + "_temp"))
                limits[text(kind)] = value if value is not None and value > 0 else None
            found.append(_Sensor(name, "", zone / "temp", limits.get("hot"), limits.get("critical")))
        return found


def text(path: Path) -> str:
    """Return the content of a small file in one line; empty if it cannot be read."""
    try:
        with path.open("rb") as opened:
            return opened.read(LONGEST_VALUE).decode("utf-8", "replace").strip()
    except OSError:
        return ""


def thousandth(path: Path) -> float | None:
    """Return a number of thousandths in units; None if it cannot be read."""
    try:
        return int(text(path)) / 1000
    except ValueError:
        return None


def _number(path: Path) -> tuple[int, str]:
    digits = "".join(filter(str.isdigit, path.name))
    return int(digits or 0), path.name
