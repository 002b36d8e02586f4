"""Share of the processors that others use while something is timed, through psutil."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psutil

from moe_watch.routing.stats.timing_noise import Noise

INSIDE_OTHERS = ("guest", "guest_nice")
"""Linux counts them in `user` and `nice` as well."""
IDLE = ("idle", "iowait")


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Processor time so far, in seconds over all processors."""

    total: float
    busy: float
    steal: float | None
    """None where the system does not count it."""
    own: float
    """Of this process and those that it started."""


class NoiseMeter:
    """Measures noise from its creation on.

    Args:
        read: processor times now.
        load: load average of the last minute.
    """

    def __init__(
        self, read: Callable[[], CpuTimes] | None = None, load: Callable[[], tuple[float, float, float]] = os.getloadavg
    ) -> None:
        self._read = cpu_times if read is None else read
        self._load = load
        self._before = self._read()

    def noise(self) -> Noise:
        """Return noise since the meter was made."""
        unavailable: dict[str, str] = {}
        others, steal = self._shares(unavailable)
        try:
            load: float | None = self._load()[0]
        except OSError:
            load, unavailable["load"] = None, "the system keeps no load average"
        return Noise(cores=psutil.cpu_count() or 1, load=load, others=others, steal=steal, unavailable=unavailable)

    def _shares(self, unavailable: dict[str, str]) -> tuple[float | None, float | None]:
        """Return the shares of other processes and of steal, and say of each one that is missing why."""
        before, after = self._before, self._read()
        total = after.total - before.total
        if total <= 0:
            unavailable |= dict.fromkeys(("others", "steal"), "the system's processor times did not advance")
            return None, None
        busy, own = after.busy - before.busy, after.own - before.own
        others = min(1.0, max(0.0, busy - own) / total)  # the two are counted by different clocks of the kernel
        if after.steal is None or before.steal is None:
            unavailable["steal"] = "only Linux counts the time that a hypervisor takes"
            return others, None
        return others, min(1.0, max(0.0, after.steal - before.steal) / total)


def cpu_times() -> CpuTimes:
    """Read processor times of the system and of our own processes."""
    counted: dict[str, float] = psutil.cpu_times()._asdict()
    total = sum(seconds for name, seconds in counted.items() if name not in INSIDE_OTHERS)
    steal = counted.get("steal")
    idle = sum(counted.get(name, 0.0) for name in IDLE)
    return CpuTimes(total=total, busy=total - idle - (steal or 0.0), steal=steal, own=_own_time())


def _own_time() -> float:
    """Time of this process and its descendants; those that have ended are in their parent's `children_*`."""
    own = psutil.Process()
    return sum(_time_of(process) for process in (own, *own.children(recursive=True)))


def _time_of(process: Any) -> float:
    with suppress(psutil.Error):  # it has ended meanwhile
        times = process.cpu_times()
        return float(times.user + times.system + times.children_user + times.children_system)
    return 0.0
