"""Memory pressure: Linux pressure stall information (PSI), or the level of the macOS kernel."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from moe_watch.routing.events import MemoryPressure
from moe_watch.vitals import sysctl
from moe_watch.vitals.provider import Provider, UnavailableError

Level = Literal["ok", "warning", "critical"]

WARNING_STALL = 0.10
"""Share of time with a task waiting for memory. systemd warns services at the same share, 200 ms in 2 s."""
CRITICAL_STALL = 0.40
"""Share well below the 0.60 at which systemd-oomd starts to kill, so that the user has time to stop a run."""

MACOS_LEVELS: dict[int, Level] = {1: "ok", 2: "warning", 4: "critical"}
"""Values of `kern.memorystatus_vm_pressure_level`: the kernel's NORMAL, WARN and CRITICAL."""

_SOME = re.compile(r"^some avg10=(\d+(?:\.\d+)?) ", re.MULTILINE)


class LinuxPressure:
    """Memory pressure from the kernel's pressure stall information (PSI)."""

    fields = ("pressure",)

    def __init__(self, path: Path = Path("/proc/pressure/memory")) -> None:
        self._path = path

    def read(self) -> Mapping[str, MemoryPressure]:
        stalled = self._stalled()
        pressure = MemoryPressure(level=stall_level(stalled), source="PSI some avg10", stalled=stalled)
        return {"pressure": pressure}

    def _stalled(self) -> float:
        try:
            found = _SOME.search(self._path.read_text())
        except OSError as error:
            raise UnavailableError("the kernel has no pressure stall information (PSI)") from error
        if found is None:
            raise UnavailableError(f"{self._path} has no `some avg10`")
        stalled = float(found[1]) / 100
        if stalled > 1:
            raise UnavailableError(f"{self._path} gives {found[1]} % of the time, which is more than 100 %")
        return stalled


class MacPressure:
    """Memory pressure level of macOS, as in Activity Monitor's memory pressure graph."""

    fields = ("pressure",)

    def __init__(self, read: Callable[[str], int] = sysctl.integer) -> None:
        self._read = read

    def read(self) -> Mapping[str, MemoryPressure]:
        level = self._read("kern.memorystatus_vm_pressure_level")
        if level not in MACOS_LEVELS:
            raise UnavailableError(f"macOS gives an unknown memory pressure level, {level}")
        return {"pressure": MemoryPressure(level=MACOS_LEVELS[level], source="macOS memory pressure level")}


def stall_level(stalled: float) -> Level:
    """Return the level for a share of time spent waiting for memory (0 to 1)."""
    if stalled >= CRITICAL_STALL:
        return "critical"
    return "warning" if stalled >= WARNING_STALL else "ok"


def system_pressure(platform: str = sys.platform) -> Provider:
    """Return the provider of memory pressure on this system."""
    return MacPressure() if platform == "darwin" else LinuxPressure()
