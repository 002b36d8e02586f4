"""Bytes swapped in and out since the machine's start.

Linux counts pages in `/proc/vmstat` (`pswpin`, `pswpout`; https://docs.kernel.org/filesystems/proc.html). psutil
multiplies them by 4 KiB, which is wrong on kernels with larger pages. macOS counts pages in `vm_statistics64`
(`swapins`, `swapouts`); psutil returns its `pageins` and `pageouts`, which include files.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path

from moe_watch.vitals.provider import UnavailableError

VMSTAT = Path("/proc/vmstat")
LONGEST_VMSTAT = 100_000
"""Characters."""

HOST_VM_INFO64 = 4
VM_STATISTICS64 = struct.Struct("=4I 9Q 2I 4Q 4I Q")
"""`struct vm_statistics64` of <mach/vm_statistics.h>, without padding; see `SWAPINS`."""
SWAPINS, SWAPOUTS = 17, 18
"""Positions after free, active, inactive, wire; zero_fill, reactivations, pageins, pageouts, faults, cow_faults,
lookups, hits, purges; purgeable, speculative; decompressions and compressions."""


def linux_traffic(path: Path = VMSTAT, page: int | None = None) -> tuple[int, int]:
    """Return the bytes swapped in and out.

    Args:
        path: the kernel's counters.
        page: bytes of a page; by default of this machine.

    Raises:
        UnavailableError: the kernel has no such counters.
    """
    try:
        with path.open() as file:
            counted = dict(line.split(maxsplit=1) for line in file.read(LONGEST_VMSTAT).splitlines() if " " in line)
        size = os.sysconf("SC_PAGE_SIZE") if page is None else page
        return int(counted["pswpin"]) * size, int(counted["pswpout"]) * size
    except OSError as error:
        raise UnavailableError(f"{path} cannot be read") from error
    except (KeyError, ValueError) as error:
        raise UnavailableError(f"{path} has no counters of swapped pages") from error


def macos_traffic() -> tuple[int, int]:
    """Return the bytes swapped in and out.

    Raises:
        UnavailableError: the kernel does not answer.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "host_statistics64"):
        raise UnavailableError("only macOS has host_statistics64")
    buffer = ctypes.create_string_buffer(VM_STATISTICS64.size)
    count = ctypes.c_uint(VM_STATISTICS64.size // 4)
    library.mach_host_self.restype = ctypes.c_uint
    if library.host_statistics64(_host(library), HOST_VM_INFO64, buffer, ctypes.byref(count)):
        raise UnavailableError("macOS does not return its virtual memory statistics")
    return swapped(buffer.raw, os.sysconf("SC_PAGE_SIZE"))


_hosts: list[int] = []


def _host(library: ctypes.CDLL) -> ctypes.c_uint:
    """Return the port of this host; each call of `mach_host_self` adds a reference to it, so it is called once."""
    if not _hosts:
        _hosts.append(library.mach_host_self())
    return ctypes.c_uint(_hosts[0])


def swapped(statistics: bytes, page: int) -> tuple[int, int]:
    """Return the bytes swapped in and out from the bytes of `vm_statistics64`."""
    fields = VM_STATISTICS64.unpack(statistics)
    return fields[SWAPINS] * page, fields[SWAPOUTS] * page


def system_traffic(platform: str = sys.platform) -> Callable[[], tuple[int, int]]:
    """Return the reader of this system."""
    return macos_traffic if platform == "darwin" else linux_traffic
