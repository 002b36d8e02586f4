"""Throttling as counters report it, of the Linux kernel and of NVIDIA's driver."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from moe_watch.vitals.provider import UnavailableError

NO_COUNTERS = "the kernel counts throttling for Intel processors only, and not in virtual machines"
KERNEL = "kernel counters"
NVML = "NVML"

Report = Callable[[], tuple[bool, str] | None]
"""Returns whether a device throttles, with the reason; None if it does not report that."""


class KernelCounters:
    """Throttling events of Intel packages, from the kernel's counters.

    Args:
        cpus: folder with a subfolder for each processor.
        platform: name of the system.
    """

    def __init__(self, cpus: Path = Path("/sys/devices/system/cpu"), platform: str = sys.platform) -> None:
        self._platform = platform
        self._counters = sorted(cpus.glob("cpu[0-9]*/thermal_throttle/package_throttle_count"))
        self._before: int | None = None

    def read(self) -> bool:
        """Return whether an event was counted since the last reading.

        Raises:
            UnavailableError: there are no counters, or no reading before this one.
        """
        if self._platform != "linux":
            raise UnavailableError(f"moe-watch has no source for throttling on {self._platform}")
        if not self._counters:
            raise UnavailableError(NO_COUNTERS)
        # A sum over the cores counts an event of their package several times, which changes nothing here.
        before, self._before = self._before, sum(int(counter.read_text()) for counter in self._counters)
        if before is None:
            raise UnavailableError("available from the second reading on")
        return self._before > before


class Throttling:
    """Provider of throttling: true if any source reports it, false if one reports none.

    Args:
        counters: counters of the CPU.
        gpus: report of the GPUs, if there are any.
    """

    fields = ("throttling", "throttling_source")

    def __init__(self, counters: KernelCounters, gpus: Report | None = None) -> None:
        self._counters = counters
        self._gpus = gpus

    def read(self) -> Mapping[str, bool | str]:
        sources: list[str] = []
        throttling: list[str] = []
        reasons: list[str] = []
        try:
            on = self._counters.read()
            sources.append(KERNEL)
            throttling += [KERNEL] if on else []
        except UnavailableError as error:
            reasons.append(str(error))
        try:
            report = None if self._gpus is None else self._gpus()
        except UnavailableError as error:
            report = None
            reasons.append(str(error))
        if report is not None:
            sources.append(NVML)
            throttling += [f"{NVML}: {report[1]}"] if report[0] else []
        if not sources:
            raise UnavailableError("; ".join(reasons))
        return {"throttling": bool(throttling), "throttling_source": ", ".join(throttling or sources)}
