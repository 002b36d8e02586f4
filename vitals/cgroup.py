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
    active_file: int = 0
    """File pages in use, such as a mapped model. Part of `used`; under pressure the kernel reclaims them too."""


@dataclass(frozen=True, slots=True)
class _Names:
    limit: str
    used: str
    inactive: str
    """Key of a line of `memory.stat`."""
    active: str
    """Another one."""
    events: tuple[str, ...]
    """Files with counters: lines of a name and a number, or one number."""


VERSION_1 = _Names(
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    "total_inactive_file",
    "total_active_file",
    ("memory.oom_control", "memory.failcnt"),
)
VERSION_2 = _Names("memory.max", "memory.current", "inactive_file", "active_file", ("memory.events",))

STATES = ("oom_kill_disable", "under_oom")
"""Lines of version 1's `memory.oom_control` that are states, not counters."""
LONGEST_EVENTS = 4096
"""Number of characters read from a file of counters."""


def group_memory(total: int, mounted: Path = MOUNTED, membership: Path = MEMBERSHIP) -> GroupMemory | None:
    """Return the tightest limit below the machine's memory; None if there is none, or none is plausible.

    Args:
        total: memory of the machine in bytes. A group without a limit has `max`, in version 1 a number near 2**63.
        mounted: where control groups are mounted.
        membership: lists the groups of this process.
    """
    return LimitedGroup(mounted, membership).memory(total)


class LimitedGroup:
    """The group of this process with the tightest memory limit. Its folders are looked up once.

    Args:
        mounted: where control groups are mounted.
        membership: lists the groups of this process.
    """

    def __init__(self, mounted: Path = MOUNTED, membership: Path = MEMBERSHIP) -> None:
        groups = _groups(mounted, membership)
        self._groups = [(folder, names) for folder, names in groups if (folder / names.limit).exists()]
        self._tightest: tuple[Path, _Names] | None = None

    def memory(self, total: int) -> GroupMemory | None:
        """Return the memory of the group; None if no limit is below the machine's memory, or none is plausible.

        Args:
            total: memory of the machine in bytes.
        """
        found = [
            (memory, folder, names)
            for folder, names in self._groups
            if (memory := _read(folder, names)) is not None
            and 0 < memory.limit < total
            and 0 <= memory.used <= memory.limit
        ]
        tightest = min(found, key=lambda each: each[0].limit, default=None)
        self._tightest = None if tightest is None else tightest[1:]
        return None if tightest is None else tightest[0]

    @property
    def pressure_file(self) -> Path | None:
        """File with the stalled time of the group that `memory` found; None in version 1, which has none."""
        if self._tightest is None or self._tightest[1] is VERSION_1:
            return None
        return self._tightest[0] / "memory.pressure"

    def events(self) -> dict[str, int] | None:
        """Return the counters of the group that `memory` found, by the kernel's names; None without a group."""
        if self._tightest is None:
            return None
        folder, names = self._tightest
        counted: dict[str, int] = {}
        for name in names.events:
            with suppress(OSError, ValueError), (folder / name).open() as file:
                counted |= _counters(name, file.read(LONGEST_EVENTS))
        return counted


def _counters(file: str, content: str) -> dict[str, int]:
    """Return the counters of a file; a file with one number is named by itself."""
    if content.strip().isdigit():
        return {file.removeprefix("memory."): int(content)}
    pairs = (line.split() for line in content.splitlines())
    return {name: int(value) for name, value in pairs if name not in STATES}


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
        used = max(0, used - int(counted.get(names.inactive, 0)))
        return GroupMemory(limit, used, min(used, int(counted.get(names.active, 0))))
    return None
