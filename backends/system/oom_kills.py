"""Evidence of the kernel's OOM killer (Linux): counters of its kills, before and after a process has died.

Version 2 of control groups: `oom_kill` in `memory.events` (https://docs.kernel.org/admin-guide/cgroup-v2.html); version
1: `oom_kill` in `memory.oom_control`. `oom_kill` in `/proc/vmstat` counts all kills of the machine, also inside groups.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

MOUNTED = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
VMSTAT = Path("/proc/vmstat")
LONGEST_FILE = 100_000
COUNTED = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class OomKills:
    """Numbers of kills by the OOM killer so far; None where the system does not count them."""

    group: int | None
    """In this process's control group. A kill for the limit of a parent group is counted where the process was."""
    machine: int | None
    limit: int | None = None
    """Memory limit of the group in bytes; None if it has none."""

    def since(self, before: OomKills) -> str:
        """Return the evidence for a kill since `before`, to follow `was killed`; empty if there is none."""
        if self.group is not None and before.group is not None and self.group > before.group:
            limit = "" if self.limit is None else f", whose memory limit is {self.limit / 1e6:,.0f} MB"
            return f"by the OOM killer (kills in its control group{limit}: {self.group}, {before.group} at its start)"
        if self.machine is not None and before.machine is not None and self.machine > before.machine:
            return f"probably by the OOM killer (kills on this machine: {self.machine}, {before.machine} at its start)"
        return ""


def oom_kills(mounted: Path = MOUNTED, membership: Path = MEMBERSHIP, vmstat: Path = VMSTAT) -> OomKills:
    """Read the counters now.

    Args:
        mounted: where control groups are mounted.
        membership: lists the groups of this process.
        vmstat: counters of the machine.
    """
    group, limit = None, None
    for counter, limits in _files(mounted, membership):
        if (group := _count(counter)) is not None:
            limit = _limit(limits)
            break
    return OomKills(group, _count(vmstat), limit)


def _files(mounted: Path, membership: Path) -> Iterator[tuple[Path, Path]]:
    """Yield the file with the counter and the file with the limit, of each version in which this process has a group.

    In a container the group may be mounted as the root, under the host's name.
    """
    for line in _text(membership).splitlines():
        number, controllers, path = (*line.split(":", 2), "", "")[:3]
        inside = PurePosixPath(path.lstrip("/"))
        if ".." in inside.parts:
            continue
        if number == "0" and not controllers:
            folders, names = (mounted / inside, mounted), ("memory.events", "memory.max")
        elif "memory" in controllers.split(","):
            folders, names = (
                (mounted / "memory" / inside, mounted / "memory"),
                (
                    "memory.oom_control",
                    "memory.limit_in_bytes",
                ),
            )
        else:
            continue
        yield from ((folder / names[0], folder / names[1]) for folder in folders)


def _count(file: Path) -> int | None:
    found = COUNTED.search(_text(file))
    return int(found[1]) if found else None


def _limit(file: Path) -> int | None:
    with suppress(ValueError):  # `max`
        limit = int(_text(file))
        return limit if limit < 1 << 60 else None  # version 1 has a number near 2**63 for no limit
    return None


def _text(file: Path) -> str:
    try:
        with file.open(encoding="ascii", errors="replace") as opened:
            return opened.read(LONGEST_FILE)
    except OSError:
        return ""
