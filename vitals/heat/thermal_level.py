"""Thermal level of macOS: `NSProcessInfo.thermalState`, which needs neither root nor another program."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from typing import Any

from moe_watch.routing.events import ThermalLevel
from moe_watch.vitals.provider import UnavailableError

LEVELS: tuple[ThermalLevel, ...] = ("nominal", "fair", "serious", "critical")
"""Values 0 to 3 of `NSProcessInfoThermalState` (NSProcessInfo.h)."""
FOUNDATION = "/System/Library/Frameworks/Foundation.framework/Foundation"
RUNTIME = "/usr/lib/libobjc.A.dylib"


class MacThermalLevel:
    """Provider of the level.

    Args:
        load: loads a library by its path, as `ctypes.CDLL`.
    """

    fields = ("thermal_level",)

    def __init__(self, load: Callable[[str], Any] = ctypes.CDLL) -> None:
        self._load = load
        self._ask: Callable[[], int] | None = None

    def read(self) -> Mapping[str, ThermalLevel]:
        if self._ask is None:
            self._ask = self._connect()
        value = self._ask()
        if not 0 <= value < len(LEVELS):
            raise UnavailableError(f"macOS gives an unknown thermal state, {value}")
        return {"thermal_level": LEVELS[value]}

    def _connect(self) -> Callable[[], int]:
        """Return the function that asks the process's `NSProcessInfo`."""
        try:
            self._load(FOUNDATION)
            runtime = self._load(RUNTIME)
        except OSError as error:
            raise UnavailableError("only macOS has a thermal state") from error
        runtime.objc_getClass.restype = runtime.sel_registerName.restype = ctypes.c_void_p
        runtime.objc_getClass.argtypes = runtime.sel_registerName.argtypes = [ctypes.c_char_p]
        address = ctypes.cast(runtime.objc_msgSend, ctypes.c_void_p).value
        # `objc_msgSend` has the signature of the method that it calls: one function type for each.
        send_object = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)(address or 0)
        send_integer = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)(address or 0)
        info = send_object(runtime.objc_getClass(b"NSProcessInfo"), runtime.sel_registerName(b"processInfo"))
        state = runtime.sel_registerName(b"thermalState")
        return lambda: int(send_integer(info, state))
