"""Reader of values of the macOS kernel by name, with the C library only."""

from __future__ import annotations

import ctypes
from typing import Any

from moe_watch.vitals.provider import UnavailableError


def integer(name: str) -> int:
    """Return a 32-bit value, e.g. `kern.memorystatus_vm_pressure_level`.

    Raises:
        UnavailableError: this system has no such value.
    """
    value = ctypes.c_int(0)
    _read(name, ctypes.byref(value), ctypes.c_size_t(ctypes.sizeof(value)))
    return value.value


def text(name: str) -> str:
    """Return a string of up to 255 bytes, e.g. `machdep.cpu.brand_string`.

    Raises:
        UnavailableError: this system has no such value.
    """
    buffer = ctypes.create_string_buffer(256)
    _read(name, buffer, ctypes.c_size_t(len(buffer)))
    return buffer.value.decode("utf-8", "replace")


def _read(name: str, target: Any, size: ctypes.c_size_t) -> None:
    library = ctypes.CDLL(None)
    if not hasattr(library, "sysctlbyname"):
        raise UnavailableError("only macOS has sysctl values by name")
    if library.sysctlbyname(name.encode(), target, ctypes.byref(size), None, ctypes.c_size_t(0)):
        raise UnavailableError(f"macOS has no value {name}")
