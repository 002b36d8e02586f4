"""Memory limit of this process's control group (Linux), which containers and services have.

Version 2: https://docs.kernel.org/admin-guide/cgroup-v2.html, `memory.max`; version 1: `memory.limit_in_bytes`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

MOUNTED = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
LONGEST_STAT = 100_000
"""Number of characters read from a group's `memory.stat`."""


@dataclass(frozen=True, slots=True)
class GroupMemory:
    """Memory of the group with the tightest limit, in bytes."""

    limit: int
    used: int
    """Without inactive file pages, which the kernel can reclaim at once."""


@dataclass(frozen=True, slots=True)
class _Names:
    limit: str
    used: str
    inactive: str
    """Key of a line of `memory.stat`."""


VERSION_1 = _Names("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
VERSION_2 = _Names("memory.max", "memory.current", "inactive_file")


def group_memory(total: int, mounted: Path = MOUNTED, membership: Path = MEMBERSHIP) -> GroupMemory | None:
    """Return the tightest limit below the machine's memory; None if there is none, or none is plausible.

    Args:
        total: memory of the machine in bytes. A group without a limit has `max`, in version 1 a number near 2**63.
        mounted: where control groups are mounted.
        membership: lists the groups of this process.
    """
    found = [
        memory
        for folder, names in _groups(mounted, membership)
        if (memory := _read(folder, names)) is not None
        and 0 < memory.limit < total
        and 0 <= memory.used <= memory.limit
    ]
    return min(found, key=lambda memory: memory.limit, default=None)


def _groups(mounted: Path, membership: Path) -> Iterator[tuple[Path, _Names]]:
    """Yield every group from this process's group up to the root, as far as this process can see them."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = (*line.split(":", 2), "", "")[:3]
        if number == "0" and not controllers:
            yield from ((folder, VERSION_2) for folder in _upwards(mounted, path))
        elif "memory" in controllers.split(","):
            yield from ((folder, VERSION_1) for folder in _upwards(mounted / "memory", path))


def _upwards(root: Path, path: str) -> Iterator[Path]:
    """Yield the folders of a group and its parents; in a container the group may be the root under the host's name."""
    group = PurePosixPath(path.lstrip("/"))
    for each in (group, *group.parents):
        if ".." not in each.parts:
            yield root / each


def _read(folder: Path, names: _Names) -> GroupMemory | None:
    with suppress(OSError, ValueError):  # no such file where nothing is limited; `max` is no number
        limit = int((folder / names.limit).read_text())
        used = int((folder / names.used).read_text())
        with (folder / "memory.stat").open() as stat:
            counted = dict(line.split(maxsplit=1) for line in stat.read(LONGEST_STAT).splitlines())
        return GroupMemory(limit, max(0, used - int(counted.get(names.inactive, 0))))
    return None
