"""Memory of the system and of moe-watch's processes in bytes, through psutil."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import psutil

from moe_watch.vitals.cgroup import GroupMemory, group_memory
from moe_watch.vitals.provider import UnavailableError
from moe_watch.vitals.swap_traffic import system_traffic


class SystemMemory:
    """Physical memory: total, used, and available without swapping.

    In a control group with a lower limit (a container), the group's memory: beyond its limit the OOM killer acts.

    Args:
        measure: `psutil.virtual_memory`.
        group: function from the machine's total to the memory of this process's control group.
    """

    fields = ("memory_total", "memory_used", "memory_available")

    def __init__(
        self,
        measure: Callable[[], Any] = psutil.virtual_memory,
        group: Callable[[int], GroupMemory | None] = group_memory,
    ) -> None:
        self._measure = measure
        self._group = group
        self.last: Mapping[str, int] | None = None
        """The latest values, and `reclaimable`: available memory with the file pages that the group has in use."""

    def read(self) -> Mapping[str, int]:
        self.last = None
        memory = self._measure()
        _require(memory.total > 0, f"the system reports {memory.total} bytes of memory")
        for name in ("used", "available"):
            _require_share(name, getattr(memory, name), memory.total)
        values = {"memory_total": memory.total, "memory_used": memory.used, "memory_available": memory.available}
        reclaimable = memory.available
        if (group := self._group(memory.total)) is not None:
            left = group.limit - group.used
            values = {
                "memory_total": group.limit,
                "memory_used": group.used,
                "memory_available": min(memory.available, left),
            }
            reclaimable = min(memory.available, left + group.active_file)
        self.last = values | {"reclaimable": reclaimable}
        return values


class Swap:
    """Swap: its size, and bytes swapped in and out since the machine's start. A total of 0 means no swap.

    Args:
        measure: `psutil.swap_memory`.
        traffic: function that returns the bytes swapped in and out.
    """

    fields = ("swap_total", "swap_used", "swapped_in", "swapped_out")

    def __init__(
        self,
        measure: Callable[[], Any] = psutil.swap_memory,
        traffic: Callable[[], tuple[int, int]] | None = None,
    ) -> None:
        self._measure = measure
        self._traffic = system_traffic() if traffic is None else traffic
        self.last: Mapping[str, int] | None = None
        """The latest values."""

    def read(self) -> Mapping[str, Any]:
        self.last = None
        swap = self._measure()
        _require(swap.total >= 0, f"the system reports {swap.total} bytes of swap")
        _require_share("used", swap.used, swap.total)
        values = {"swap_total": swap.total, "swap_used": swap.used}
        try:
            values["swapped_in"], values["swapped_out"] = self._traffic()
        except UnavailableError as why:
            self.last = values
            return {**values, "unavailable": dict.fromkeys(("swapped_in", "swapped_out"), str(why))}
        self.last = values
        return values


class GroupEvents:
    """Counters of memory events of this process's control group; its memory is read before them.

    Args:
        read: returns the counters, or None without a group.
    """

    fields = ("group_events",)

    def __init__(self, read: Callable[[], dict[str, int] | None]) -> None:
        self._read = read
        self.last: Mapping[str, int] | None = None
        """The latest counters."""

    def read(self) -> Mapping[str, dict[str, int]]:
        self.last = counters = self._read()
        if counters is None:
            raise UnavailableError("this process is in no control group with a memory limit")
        if not counters:
            raise UnavailableError("the control group has no counters of memory events")
        return {"group_events": counters}


class ProcessMemory:
    """Resident memory of one process.

    Args:
        field: the field of `Vitals` to fill.
        pid: function that returns the process id at each reading; None while there is no process.
    """

    def __init__(self, field: str, pid: Callable[[], int | None]) -> None:
        self.fields = (field,)
        self._pid = pid
        self._process: psutil.Process | None = None

    def read(self) -> Mapping[str, int]:
        pid = self._pid()
        if pid is None:
            raise UnavailableError("the process is not running")
        try:
            if self._process is None or self._process.pid != pid:
                self._process = psutil.Process(pid)
            resident = self._process.memory_info().rss
        except psutil.NoSuchProcess as error:
            raise UnavailableError("the process has ended") from error
        except psutil.AccessDenied as error:
            raise UnavailableError("the system denies access to the process") from error
        _require(resident > 0, "the process has ended")  # as a zombie it is still listed, without memory
        return {self.fields[0]: resident}


def _require_share(name: str, part: int, total: int) -> None:
    """Refuse a part outside 0 to its total, as containers with separate limits may report."""
    _require(0 <= part <= total, f"the system reports {part:,} bytes {name} of {total:,}")


def _require(plausible: bool, otherwise: str) -> None:
    if not plausible:
        raise UnavailableError(otherwise)
