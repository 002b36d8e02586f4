"""Processor time used by other processes during a timing, through psutil."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psutil

from moe_watch.routing.stats.timing_noise import Noise

INSIDE_OTHERS = ("guest", "guest_nice")
"""Times that Linux also counts in `user` and `nice`."""
IDLE = ("idle", "iowait")


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Processor time so far, in seconds over all processors."""

    total: float
    busy: float
    steal: float | None
    """None if the system does not count it."""
    own: float
    """Time of this process and its descendants."""


class NoiseMeter:
    """Meter of timing noise from its creation on.

    Args:
        read: function that returns the current processor times.
        load: function that returns load averages; the first one, of the last minute, is used.
    """

    def __init__(
        self, read: Callable[[], CpuTimes] | None = None, load: Callable[[], tuple[float, float, float]] = os.getloadavg
    ) -> None:
        self._read = cpu_times if read is None else read
        self._load = load
        self._before = self._read()

    def noise(self) -> Noise:
        """Return the noise since the meter was created."""
        unavailable: dict[str, str] = {}
        others, steal = self._shares(unavailable)
        try:
            load: float | None = self._load()[0]
        except OSError:
            load, unavailable["load"] = None, "the system keeps no load average"
        return Noise(cores=psutil.cpu_count() or 1, load=load, others=others, steal=steal, unavailable=unavailable)

    def _shares(self, unavailable: dict[str, str]) -> tuple[float | None, float | None]:
        """Return the shares of other processes and of steal; add a reason to `unavailable` for each absent one."""
        before, after = self._before, self._read()
        total = after.total - before.total
        if total <= 0:
            unavailable |= dict.fromkeys(("others", "steal"), "the system's processor times did not advance")
            return None, None
        busy, own = after.busy - before.busy, after.own - before.own
        others = min(1.0, max(0.0, busy - own) / total)  # the kernel counts the two by different clocks
        if after.steal is None or before.steal is None:
            unavailable["steal"] = "only Linux counts the time taken by a hypervisor"
            return others, None
        return others, min(1.0, max(0.0, after.steal - before.steal) / total)


def cpu_times() -> CpuTimes:
    """Read processor times of the system and of moe-watch's processes."""
    counted: dict[str, float] = psutil.cpu_times()._asdict()
    total = sum(seconds for name, seconds in counted.items() if name not in INSIDE_OTHERS)
    steal = counted.get("steal")
    idle = sum(counted.get(name, 0.0) for name in IDLE)
    return CpuTimes(total=total, busy=total - idle - (steal or 0.0), steal=steal, own=_own_time())


def _own_time() -> float:
    """Return the time of this process and its descendants; ended ones are in their parent's `children_*`."""
    own = psutil.Process()
    return sum(_time_of(process) for process in (own, *own.children(recursive=True)))


def _time_of(process: Any) -> float:
    with suppress(psutil.Error):  # the process has ended meanwhile
        times = process.cpu_times()
        return float(times.user + times.system + times.children_user + times.children_system)
    return 0.0
