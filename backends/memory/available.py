"""Memory that is available to a new process, and the limit that binds: machine, container, or `ulimit`."""

from __future__ import annotations

import resource
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import psutil

Limit = Literal["machine", "container", "ulimit -v", "given"]
"""Limit that binds. `given` is a size named by the user."""

LIMIT_WORDS: dict[Limit, str] = {
    "machine": "available on this machine",
    "container": "left of the container's memory limit",
    "ulimit -v": "left of the limit on address space (ulimit -v)",
    "given": "given",
}


class Group(Protocol):
    """Memory of a control group in bytes."""

    @property
    def limit(self) -> int: ...

    @property
    def used(self) -> int: ...


GroupReader = Callable[[int], Group | None]
"""Function from the machine's memory to the memory of this process's control group; `vitals.cgroup.group_memory`."""


@dataclass(frozen=True, slots=True)
class AvailableMemory:
    """Memory in bytes that a new process can take without swapping."""

    bytes: int
    total: int
    """Memory of the machine or container, or the limit on address space."""
    limit: Limit
    counts_mapped_files: bool = False
    """Mapped files count against this limit, although their pages can be evicted."""

    @property
    def words(self) -> str:
        """Description of the limit, to follow a size."""
        return LIMIT_WORDS[self.limit]


def available_memory(group: GroupReader) -> AvailableMemory:
    """Return the smallest of the memory limits of this machine.

    Args:
        group: reader of the control group's memory. `backends` does not import `vitals`, so it is passed in.
    """
    machine = psutil.virtual_memory()
    found = [AvailableMemory(int(machine.available), int(machine.total), "machine")]
    if (container := group(machine.total)) is not None:
        found.append(AvailableMemory(max(0, container.limit - container.used), container.limit, "container"))
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:  # a child process inherits the limit and starts with an empty address space
        found.append(AvailableMemory(soft, soft, "ulimit -v", counts_mapped_files=True))
    return min(found, key=lambda memory: memory.bytes)
