"""Memory of the system and of moe-watch's processes in bytes, through psutil."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import psutil

from moe_watch.vitals.cgroup import GroupMemory, group_memory
from moe_watch.vitals.provider import UnavailableError


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

    def read(self) -> Mapping[str, int]:
        memory = self._measure()
        _require(memory.total > 0, f"the system reports {memory.total} bytes of memory")
        for name in ("used", "available"):
            _require_share(name, getattr(memory, name), memory.total)
        if (group := self._group(memory.total)) is not None:
            available = min(memory.available, group.limit - group.used)
            return {"memory_total": group.limit, "memory_used": group.used, "memory_available": available}
        return {
            "memory_total": memory.total,
            "memory_used": memory.used,
            "memory_available": memory.available,
        }


class Swap:
    """Swap. A total of 0 means that no swap is configured."""

    fields = ("swap_total", "swap_used")

    def __init__(self, measure: Callable[[], Any] = psutil.swap_memory) -> None:
        self._measure = measure

    def read(self) -> Mapping[str, int]:
        swap = self._measure()
        _require(swap.total >= 0, f"the system reports {swap.total} bytes of swap")
        _require_share("used", swap.used, swap.total)
        return {"swap_total": swap.total, "swap_used": swap.used}


class ProcessMemory:
    """Resident memory of one process.

    Args:
        field: the field of `Vitals` to fill.
        pid: function that returns the process id at each reading; None while there is no process.
    """

    def __init__(self, field: str, pid: Callable[[], int | None]) -> None:
        self.fields = (field,)
        self._pid = pid

    def read(self) -> Mapping[str, int]:
        pid = self._pid()
        if pid is None:
            raise UnavailableError("the process is not running")
        try:
            resident = psutil.Process(pid).memory_info().rss
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
