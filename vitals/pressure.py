"""Memory pressure of the system as one level with its reason.

The level is the highest that any readable quantity gives: stalled time (Linux PSI, of the machine and of this process's
control group), the macOS kernel's own level, available memory, bytes read from swap, and kills by the OOM killer.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from moe_watch.routing.events import MemoryPressure
from moe_watch.vitals import sysctl
from moe_watch.vitals.cgroup import LimitedGroup
from moe_watch.vitals.provider import UnavailableError
from moe_watch.vitals.stalls import MACHINE, Stalls, read_stalls
from moe_watch.vitals.thresholds import MemoryThresholds

Level = Literal["ok", "warning", "critical"]
LEVELS: tuple[Level, ...] = ("ok", "warning", "critical")

MACOS_LEVELS: dict[int, Level] = {1: "ok", 2: "warning", 4: "critical"}
"""Values of `kern.memorystatus_vm_pressure_level`: the kernel's NORMAL, WARN and CRITICAL."""
MACOS_SOURCE = "macOS memory pressure level"
LOW_SWAP = 0.10
"""Share of free swap at or below which low available memory is critical; earlyoom acts at it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Level that one quantity gives."""

    level: Level
    source: str
    reason: str = ""


class Readings(Protocol):
    """Provider with its latest values; None if the last reading failed."""

    @property
    def last(self) -> Mapping[str, int] | None: ...


class LinuxStalls:
    """Stalled time of the machine and of the control group, and kills in the group.

    Args:
        group: the group with the tightest limit, which is the one that stalls first.
        path: PSI file of the machine.
    """

    def __init__(self, group: LimitedGroup, path: Path = MACHINE) -> None:
        self._group = group
        self._path = path

    def read(self) -> list[Stalls]:
        """Return the readings, of the machine first; a group without PSI is left out.

        Raises:
            UnavailableError: there is none.
        """
        found: list[Stalls] = []
        why: UnavailableError | None = None
        try:
            found.append(read_stalls(self._path))
        except UnavailableError as reason:
            why = reason
        if (path := self._group.pressure_file) is not None:
            try:
                found.append(read_stalls(path, of_group=True))
            except UnavailableError as reason:
                why = why or reason
        if not found and why is not None:
            raise why
        return found


class Pressure:
    """Provider of the level. It uses the latest readings of other providers, which are read before it.

    Args:
        memory: `memory_total` and `reclaimable`, see `moe_watch.vitals.memory.SystemMemory`.
        swap: `swap_total`, `swap_used` and `swapped_in`.
        events: `oom_kill` of the control group.
        thresholds: values from which the level rises.
        stalls: returns stalled time on Linux; None elsewhere.
        kernel: returns the kernel's own level on macOS; None elsewhere.
        clock: monotonic seconds.
    """

    fields = ("pressure",)

    def __init__(
        self,
        memory: Readings,
        swap: Readings,
        events: Readings,
        thresholds: MemoryThresholds,
        *,
        stalls: Callable[[], list[Stalls]] | None = None,
        kernel: Callable[[], Level] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._memory, self._swap, self._events = memory, swap, events
        self._thresholds = thresholds
        self._stalls, self._kernel = stalls, kernel
        self._clock = clock
        self._before: tuple[float, int] | None = None
        """Time of the reading before, and bytes read from swap until then."""
        self._kills: int | None = None

    def read(self) -> Mapping[str, MemoryPressure]:
        reasons: list[UnavailableError] = []
        stalls: list[Stalls] = []
        found: list[Verdict] = []
        try:
            if self._kernel is not None:
                found.append(_kernel_verdict(self._kernel()))
            if self._stalls is not None:
                stalls = self._stalls()
                found += [verdict for each in stalls for verdict in stall_verdicts(each, self._thresholds)]
        except UnavailableError as reason:
            reasons.append(reason)
        if self._kernel is None and self._memory.last is not None:  # macOS counts what it can compress as used
            found += available_verdicts(self._memory.last, self._swap.last, self._thresholds)
        found += self._swapping()
        found += self._killed()
        if not found:
            raise next(iter(reasons), UnavailableError("neither pressure nor available memory can be read"))
        worst = max(found, key=lambda verdict: LEVELS.index(verdict.level))  # the first of equals
        full = [each.full for each in stalls if each.full is not None]
        return {
            "pressure": MemoryPressure(
                level=worst.level,
                source=worst.source,
                reason=worst.reason,
                stalled=max((each.some for each in stalls), default=None),
                stalled_full=max(full, default=None),
            )
        }

    def _swapping(self) -> list[Verdict]:
        """Return the verdict on the bytes read from swap since the reading before."""
        now = self._clock()
        before = self._before
        swapped = None if self._swap.last is None else self._swap.last.get("swapped_in")
        self._before = None if swapped is None else (now, swapped)
        if swapped is None or before is None or now <= before[0] or swapped < before[1]:
            return []
        rate, limit = (swapped - before[1]) / (now - before[0]), self._thresholds.warning_swap_in
        if rate < limit:
            return []
        return [Verdict("warning", "swap-in", f"{rate / 1e6:.0f} MB/s read from swap, limit {limit / 1e6:g} MB/s")]

    def _killed(self) -> list[Verdict]:
        """Return a critical verdict if the OOM killer ended a process of the group since the reading before."""
        events = self._events.last
        kills = None if events is None else events.get("oom_kill")
        before, self._kills = self._kills, kills
        if kills is None or before is None or kills <= before:
            return []
        return [Verdict("critical", "OOM killer", "the OOM killer ended a process of this control group")]


def _kernel_verdict(level: Level) -> Verdict:
    return Verdict(level, MACOS_SOURCE, "" if level == "ok" else f"the macOS kernel reports the level {level}")


def stall_verdicts(stalls: Stalls, thresholds: MemoryThresholds) -> list[Verdict]:
    """Return the levels of the two shares of stalled time."""
    whose = " of the control group" if stalls.of_group else ""
    kinds = (
        ("some", stalls.some, thresholds.warning_stall, thresholds.critical_stall),
        ("full", stalls.full, thresholds.warning_full, thresholds.critical_full),
    )
    found = []
    for kind, share, warning, critical in kinds:
        if share is None:
            continue
        level: Level = "critical" if share >= critical else "warning" if share >= warning else "ok"
        limit = critical if level == "critical" else warning
        waited = "all tasks" if kind == "full" else "tasks"
        reason = f"{waited}{whose} waited for memory {100 * share:.1f} % of 10 s, limit {100 * limit:g} %"
        source = f"PSI {kind} avg10" + (" of the group" if stalls.of_group else "")
        found.append(Verdict(level, source, "" if level == "ok" else reason))
    return found


def available_verdicts(
    memory: Mapping[str, int], swap: Mapping[str, int] | None, thresholds: MemoryThresholds
) -> list[Verdict]:
    """Return the level of available memory. It is critical only if there is no free swap to move pages to."""
    total, available = memory["memory_total"], memory["reclaimable"]
    share = available / total
    swap_total = 0 if swap is None else swap["swap_total"]
    has_swap = swap is not None and swap_total > 0 and swap_total - swap["swap_used"] > LOW_SWAP * swap_total
    level: Level = "warning" if share <= thresholds.warning_available else "ok"
    limit = thresholds.warning_available
    if share <= thresholds.critical_available and not has_swap:
        level, limit = "critical", thresholds.critical_available
    without = " and no free swap" if level == "critical" else ""
    reason = f"{100 * share:.1f} % of {total / 1e9:.1f} GB available{without}, limit {100 * limit:g} %"
    return [Verdict(level, "available memory", "" if level == "ok" else reason)]


def macos_level(read: Callable[[str], int] = sysctl.integer) -> Level:
    """Return the kernel's level, as in Activity Monitor's memory pressure graph.

    Raises:
        UnavailableError: the kernel has no such value, or an unknown one.
    """
    level = read("kern.memorystatus_vm_pressure_level")
    if level not in MACOS_LEVELS:
        raise UnavailableError(f"macOS gives an unknown memory pressure level, {level}")
    return MACOS_LEVELS[level]


def system_pressure(
    memory: Readings,
    swap: Readings,
    events: Readings,
    group: LimitedGroup,
    thresholds: MemoryThresholds,
    platform: str = sys.platform,
) -> Pressure:
    """Return the provider of memory pressure on this system."""
    if platform == "darwin":
        return Pressure(memory, swap, events, thresholds, kernel=macos_level)
    return Pressure(memory, swap, events, thresholds, stalls=LinuxStalls(group).read)
