"""Clock frequencies: Linux cpufreq, amdgpu, and other sources."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from moe_watch.routing.events import Clock
from moe_watch.vitals.heat.hwmon import text, thousandth
from moe_watch.vitals.provider import UnavailableError

NO_CPUFREQ = "the kernel shows no clock frequencies (cpufreq), as is usual in virtual machines"
MOST_CORES = 8
"""Number of cores per package whose frequency is read: each read may interrupt the core."""
BUSY = 0.5
"""Share of time in which a core was not idle from which it counts as busy."""

ReadClocks = Callable[[], Sequence[Clock]]


class Clocks:
    """Clocks of all processors that have a source.

    Args:
        sources: each returns the clocks of its devices, or raises `UnavailableError`.
    """

    fields = ("clocks",)

    def __init__(self, *sources: ReadClocks) -> None:
        self._sources = sources

    def read(self) -> Mapping[str, list[Clock]]:
        found: list[Clock] = []
        reasons: list[str] = []
        for source in self._sources:
            try:
                found += source()
            except UnavailableError as error:
                reasons.append(str(error))
        if not found:
            raise UnavailableError("; ".join(reasons) or f"moe-watch has no source for clocks on {sys.platform}")
        return {"clocks": found}


@dataclass(slots=True)
class _Core:
    """Core with its files, and its counters of the last reading."""

    name: str
    current: Path
    idle: int = 0
    total: int = 0
    busy: float = 0.0


class LinuxCpuClocks:
    """Clock of each CPU package: the mean over its busy cores, or over its busiest core if none is.

    An idle core has the lowest frequency, or a stale one. A core is busy if it was not idle for at least half of the
    time since the last reading. At most `MOST_CORES` of a package, the busiest, are read.

    Args:
        cpus: folder with a folder per core, as `/sys/devices/system/cpu`.
        stat: file with the times of all cores, `/proc/stat`.
    """

    def __init__(self, cpus: Path = Path("/sys/devices/system/cpu"), stat: Path = Path("/proc/stat")) -> None:
        self._stat = stat
        self._packages: dict[str, list[_Core]] = {}
        self._highest: dict[str, float] = {}
        for folder in sorted(cpus.glob("cpu[0-9]*")):
            current = folder / "cpufreq" / "scaling_cur_freq"
            if not current.exists():
                continue
            package = text(folder / "topology" / "physical_package_id") or "0"
            self._packages.setdefault(package, []).append(_Core(folder.name, current))
            highest = thousandth(folder / "cpufreq" / "cpuinfo_max_freq") or 0.0
            self._highest[package] = max(highest, self._highest.get(package, 0.0))

    def __call__(self) -> list[Clock]:
        """Return one clock per package.

        Raises:
            UnavailableError: the kernel shows none.
        """
        if not self._packages:
            raise UnavailableError(NO_CPUFREQ)
        self._measure_load()
        found = []
        for package, cores in sorted(self._packages.items()):
            ranked = sorted(cores, key=lambda core: -core.busy)
            chosen = [core for core in ranked if core.busy >= BUSY][:MOST_CORES] or ranked[:1]
            values = [value for core in chosen if (value := thousandth(core.current))]
            if values:
                device = "CPU" if len(self._packages) == 1 else f"CPU {package}"
                mean = round(sum(values) / len(values), 1)
                found.append(Clock(device=device, kind="cpu", mhz=mean, max=self._highest[package] or None))
        if not found:
            raise UnavailableError("the clock frequencies cannot be read")
        return found

    def _measure_load(self) -> None:
        """Compute the share of time in which each core was busy since the last reading (proc(5), `/proc/stat`)."""
        try:
            lines = self._stat.read_text().splitlines()
        except OSError:
            return
        rows = {
            row[0]: [int(each) for each in row[1:9]] for row in map(str.split, lines) if row and row[0][:3] == "cpu"
        }
        for core in (core for cores in self._packages.values() for core in cores):
            times = rows.get(core.name)
            if times is None or len(times) < 5:
                continue
            idle, total = times[3] + times[4], sum(times)
            passed = total - core.total
            core.busy = 1 - (idle - core.idle) / passed if passed > 0 else core.busy
            core.idle, core.total = idle, total


class AmdGpuClocks:
    """Shader clock of AMD GPUs, from the driver's table of power levels: the present level has an asterisk."""

    _LEVEL = re.compile(r"^\s*\w+:\s*(\d+)\s*mhz\s*(\*?)", re.IGNORECASE | re.MULTILINE)

    def __init__(self, root: Path = Path("/sys")) -> None:
        cards = sorted((root / "class" / "drm").glob("card[0-9]*"))
        self.tables = [table for card in cards if (table := card / "device" / "pp_dpm_sclk").exists()]

    def __call__(self) -> list[Clock]:
        """Return one clock per GPU; none without an AMD GPU."""
        found = []
        for number, table in enumerate(self.tables):
            try:
                levels = self._LEVEL.findall(table.read_text()[:4096])
            except OSError:
                continue
            present = [int(mhz) for mhz, mark in levels if mark]
            if present:
                highest = float(max(int(mhz) for mhz, _ in levels))
                found.append(Clock(device=f"AMD GPU {number}", kind="gpu", mhz=float(present[0]), max=highest))
        return found
