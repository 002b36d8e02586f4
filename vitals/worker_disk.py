"""Bytes that the worker fetches from storage, and its major page faults: both are 0 for a model in the page cache.

Linux: `read_bytes` of `/proc/PID/io` and `majflt` of `/proc/PID/stat` (https://docs.kernel.org/filesystems/proc.html).
macOS: `ri_diskio_bytesread` and `ri_pageins` of `proc_pid_rusage` (<sys/resource.h>).
"""

from __future__ import annotations

import ctypes
import struct
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from moe_watch.vitals.provider import UnavailableError

PROCESSES = Path("/proc")
LONGEST_FILE = 4096
"""Characters."""
MAJOR_FAULTS = 12
"""Number of the field `majflt` of `/proc/PID/stat`, from 1."""

RUSAGE_INFO_V2 = 2
RUSAGE = struct.Struct("=16s18Q")
"""`struct rusage_info_v2`: uuid, then 18 numbers."""
PAGEINS, BYTES_READ = 5, 17
"""Positions of `ri_pageins` and `ri_diskio_bytesread`."""

DENIED = "the system denies access to the process"
ENDED = "the process has ended"
NOT_RUNNING = "the process is not running"

FIELDS = ("worker_read", "worker_faults")


class WorkerDisk:
    """Provider of the worker's two counters. They begin at 0 with each worker.

    Args:
        pid: function that returns the process id at each reading; None while there is no process.
        platform: name of the system.
        processes: where Linux shows its processes.
    """

    fields = FIELDS

    def __init__(
        self, pid: Callable[[], int | None], platform: str = sys.platform, processes: Path = PROCESSES
    ) -> None:
        self._pid = pid
        self._platform = platform
        self._processes = processes

    def read(self) -> Mapping[str, Any]:
        pid = self._pid()
        if pid is None:
            raise UnavailableError(NOT_RUNNING)
        if self._platform == "darwin":
            return dict(zip(FIELDS, from_rusage(_rusage(pid)), strict=True))
        if self._platform != "linux":
            raise UnavailableError(f"moe-watch has no source for the bytes that a process reads on {self._platform}")
        return self._linux(self._processes / str(pid))

    def _linux(self, process: Path) -> Mapping[str, Any]:
        """Return the counters that can be read, and the reason of each other."""
        values: dict[str, Any] = {}
        unavailable: dict[str, str] = {}
        for field, name, parse in (("worker_read", "io", bytes_read), ("worker_faults", "stat", major_faults)):
            try:
                with (process / name).open(errors="replace") as file:
                    values[field] = parse(file.read(LONGEST_FILE))
            except (FileNotFoundError, ProcessLookupError):
                unavailable[field] = self._missing(process, name)
            except PermissionError:
                unavailable[field] = DENIED
            except ValueError:
                unavailable[field] = f"{process / name} has another form than the kernel documents"
        return {**values, "unavailable": unavailable}

    def _missing(self, process: Path, name: str) -> str:
        """Return why a file is missing: kernels without task I/O accounting have no `io`."""
        return f"the kernel has no /proc/PID/{name}" if process.exists() else ENDED


def bytes_read(io: str) -> int:
    """Return `read_bytes` from `/proc/PID/io`.

    Raises:
        ValueError: there is no such line.
    """
    for line in io.splitlines():
        if line.startswith("read_bytes:"):
            return int(line.partition(":")[2])
    raise ValueError("no read_bytes")


def major_faults(stat: str) -> int:
    """Return the major faults from `/proc/PID/stat`; the name in parentheses may contain spaces and parentheses.

    Raises:
        ValueError: it has too few fields.
    """
    fields = stat.rpartition(")")[2].split()  # from the third field on
    if len(fields) <= MAJOR_FAULTS - 3:
        raise ValueError("too few fields")
    return int(fields[MAJOR_FAULTS - 3])


def from_rusage(usage: bytes) -> tuple[int, int]:
    """Return bytes read and page-ins from the bytes of `rusage_info_v2`."""
    fields = RUSAGE.unpack(usage)
    return fields[BYTES_READ], fields[PAGEINS]


def _rusage(pid: int) -> bytes:
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "proc_pid_rusage"):
        raise UnavailableError("only macOS has proc_pid_rusage")
    buffer = ctypes.create_string_buffer(RUSAGE.size)
    if library.proc_pid_rusage(ctypes.c_int(pid), ctypes.c_int(RUSAGE_INFO_V2), buffer):
        raise UnavailableError(ENDED if ctypes.get_errno() == 3 else DENIED)  # 3 is ESRCH
    return buffer.raw
