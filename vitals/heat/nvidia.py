"""NVIDIA GPUs through NVML: temperature, clocks, reasons of throttling, memory. Needs the package nvidia-ml-py."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from moe_watch.routing.events import Clock, GpuMemory
from moe_watch.vitals.heat.hwmon import SensorReading
from moe_watch.vitals.provider import UnavailableError

NO_LIBRARY = "the Python package nvidia-ml-py is not installed"
SLOWDOWNS = {
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
"""Bits of `nvmlClocksEventReasons` (nvml.h) that mean heat or failing power. The power cap (0x04), idle clocks (0x01)
and settings of the user (0x02, 0x10, 0x100) are normal operation."""
DRIVER_FILES = (Path("/proc/driver/nvidia/version"), Path("/dev/nvidiactl"))
"""Files of a loaded driver."""


def has_driver(files: Sequence[Path] = DRIVER_FILES) -> bool:
    """Return whether an NVIDIA driver is loaded."""
    return any(file.exists() for file in files)


class NvidiaGpus:
    """GPUs of this machine. The library is loaded at the first reading, and once.

    Args:
        load: returns the module `pynvml` of nvidia-ml-py.
    """

    def __init__(self, load: Callable[[], Any] = lambda: importlib.import_module("pynvml")) -> None:
        self._load = load
        self._nvml: Any = None
        self._handles: list[Any] = []
        self._failure = ""

    def temperatures(self) -> Mapping[str, Sequence[SensorReading]]:
        """Return the temperature of each GPU, with the slowdown and shutdown thresholds as limits.

        Raises:
            UnavailableError: NVML cannot be used.
        """
        nvml = self._library()
        found = {}
        for name, handle in self._gpus():
            current = self._value(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU)
            limits = (nvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN, nvml.NVML_TEMPERATURE_THRESHOLD_SHUTDOWN)
            slowdown, shutdown = (self._value(nvml.nvmlDeviceGetTemperatureThreshold, handle, each) for each in limits)
            found[name] = [SensorReading("", current, slowdown, shutdown)]
        return found

    def clocks(self) -> list[Clock]:
        """Return the clock of the streaming multiprocessors of each GPU.

        Raises:
            UnavailableError: NVML cannot be used.
        """
        nvml = self._library()
        found = []
        for name, handle in self._gpus():
            mhz = self._value(nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_SM)
            highest = self._value(nvml.nvmlDeviceGetMaxClockInfo, handle, nvml.NVML_CLOCK_SM)
            if mhz is not None:
                found.append(Clock(device=name, kind="gpu", mhz=mhz, max=highest))
        return found

    def throttling(self) -> tuple[bool, str] | None:
        """Return whether a GPU throttles, and its reasons; None if no GPU reports any.

        Raises:
            UnavailableError: NVML cannot be used.
        """
        nvml = self._library()
        ask = getattr(nvml, "nvmlDeviceGetCurrentClocksEventReasons", None)  # older packages have only the old name
        ask = ask or nvml.nvmlDeviceGetCurrentClocksThrottleReasons
        reports = [(name, bits) for name, handle in self._gpus() if (bits := self._value(ask, handle)) is not None]
        if not reports:
            return None
        reasons = [f"{name}: {word}" for name, bits in reports for bit, word in SLOWDOWNS.items() if int(bits) & bit]
        return bool(reasons), ", ".join(reasons)

    def memory(self) -> list[GpuMemory]:
        """Return used and total memory of each GPU.

        Raises:
            UnavailableError: NVML cannot be used.
        """
        nvml = self._library()
        found = []
        for name, handle in self._gpus():
            try:
                memory = nvml.nvmlDeviceGetMemoryInfo(handle)
            except nvml.NVMLError:
                continue
            found.append(GpuMemory(device=name, used=int(memory.used), total=int(memory.total)))
        return found

    def _gpus(self) -> Iterator[tuple[str, Any]]:
        return ((f"NVIDIA GPU {number}", handle) for number, handle in enumerate(self._handles))

    def _value(self, ask: Callable[..., Any], *arguments: Any) -> float | None:
        """Return a number; None if this GPU does not have it."""
        try:
            return float(ask(*arguments))
        except self._nvml.NVMLError:
            return None

    def _library(self) -> Any:
        if self._failure:
            raise UnavailableError(self._failure)
        if self._nvml is None:
            try:
                nvml = self._load()
            except ImportError as error:
                self._failure = NO_LIBRARY
                raise UnavailableError(NO_LIBRARY) from error
            try:
                nvml.nvmlInit()
                self._handles = [nvml.nvmlDeviceGetHandleByIndex(each) for each in range(nvml.nvmlDeviceGetCount())]
            except nvml.NVMLError as error:
                self._failure = f"NVML: {error}"
                raise UnavailableError(self._failure) from error
            self._nvml = nvml
        return self._nvml


class NvidiaMemory:
    """Provider of the memory of NVIDIA GPUs."""

    fields = ("gpu_memory",)

    def __init__(self, gpus: NvidiaGpus) -> None:
        self._gpus = gpus

    def read(self) -> Mapping[str, list[GpuMemory]]:
        return {"gpu_memory": self._gpus.memory()}
