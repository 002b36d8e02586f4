"""NVIDIA GPUs through a library object with the functions, constants and results of nvidia-ml-py 13.615 (pynvml.py)."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from moe_watch.routing.events import Clock, GpuMemory, Temperature
from moe_watch.vitals.heat.nvidia import NO_LIBRARY, NvidiaGpus, NvidiaMemory, has_driver
from moe_watch.vitals.heat.temperature import Temperatures
from moe_watch.vitals.heat.throttling import KernelCounters, Throttling
from moe_watch.vitals.provider import UnavailableError


class FakeNvml:
    """Two GPUs; the second one supports neither thresholds nor reasons, as some laptop GPUs."""

    NVML_TEMPERATURE_GPU = 0
    NVML_TEMPERATURE_THRESHOLD_SHUTDOWN = 0
    NVML_TEMPERATURE_THRESHOLD_SLOWDOWN = 1
    NVML_CLOCK_SM = 1

    class NVMLError(Exception):
        pass

    def __init__(self, reasons=0, error=None):
        self.reasons, self.error, self.inits, self.lost = reasons, error, 0, False

    def nvmlInit(self):  # noqa: N802
        self.inits += 1
        if self.error:
            raise self.NVMLError(self.error)

    def nvmlDeviceGetCount(self):  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        return index

    def nvmlDeviceGetTemperature(self, handle, sensor):  # noqa: N802
        if self.lost:
            raise self.NVMLError("GPU is lost")
        return (64, 51)[handle]

    def nvmlDeviceGetTemperatureThreshold(self, handle, threshold):  # noqa: N802
        return (92, 89)[threshold] if handle == 0 else self._unsupported()

    def nvmlDeviceGetClockInfo(self, handle, kind):  # noqa: N802
        return (1410, 300)[handle]

    def nvmlDeviceGetMaxClockInfo(self, handle, kind):  # noqa: N802
        return 1980

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle):  # noqa: N802
        return self.reasons if handle == 0 else self._unsupported()

    def nvmlDeviceGetMemoryInfo(self, handle):  # noqa: N802
        return SimpleNamespace(total=80 << 30, free=20 << 30, used=60 << 30)

    def _unsupported(self):
        raise self.NVMLError("Not Supported")


class NoCounters(KernelCounters):
    def read(self):
        raise UnavailableError("no counters here")


def test_temperatures_with_their_thresholds():
    gpus = NvidiaGpus(FakeNvml)
    assert Temperatures(gpus.temperatures).read()["temperatures"] == [
        Temperature(sensor="NVIDIA GPU 0", celsius=64.0, high=89.0, critical=92.0),
        Temperature(sensor="NVIDIA GPU 1", celsius=51.0),
    ]


def test_clocks_and_memory():
    gpus = NvidiaGpus(FakeNvml)
    assert gpus.clocks() == [
        Clock(device="NVIDIA GPU 0", kind="gpu", mhz=1410.0, max=1980.0),
        Clock(device="NVIDIA GPU 1", kind="gpu", mhz=300.0, max=1980.0),
    ]
    assert NvidiaMemory(gpus).read()["gpu_memory"][0] == GpuMemory(device="NVIDIA GPU 0", used=60 << 30, total=80 << 30)


@pytest.mark.parametrize(
    ("reasons", "throttling", "source"),
    [
        (0x00, False, "NVML"),
        (0x01, False, "NVML"),  # idle
        (0x04, False, "NVML"),  # the power cap is normal operation of a busy GPU
        (0x20, True, "NVML: NVIDIA GPU 0: software thermal slowdown"),
        (0x48, True, "NVML: NVIDIA GPU 0: hardware slowdown, NVIDIA GPU 0: hardware thermal slowdown"),
    ],
)
def test_reasons_of_throttling(reasons, throttling, source):
    gpus = NvidiaGpus(lambda: FakeNvml(reasons))
    assert Throttling(NoCounters(), gpus.throttling).read() == {"throttling": throttling, "throttling_source": source}


def test_older_library():
    class Older(FakeNvml):
        nvmlDeviceGetCurrentClocksEventReasons = None  # noqa: N815

        def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle):  # noqa: N802
            return 0x40

    assert NvidiaGpus(Older).throttling()[0] is True


def test_library_is_not_installed():
    def load():
        raise ImportError("pynvml")

    gpus = NvidiaGpus(load)
    for read in (gpus.temperatures, gpus.clocks, gpus.throttling, gpus.memory):
        with pytest.raises(UnavailableError, match=NO_LIBRARY):
            read()


def test_driver_fails_and_is_asked_once():
    nvml = FakeNvml(error="Driver/library version mismatch")
    gpus = NvidiaGpus(lambda: nvml)
    for _ in range(3):
        with pytest.raises(UnavailableError, match="NVML: Driver/library version mismatch"):
            gpus.temperatures()
    assert nvml.inits == 1


def test_gpu_is_lost_during_the_run():
    nvml = FakeNvml()
    source = Temperatures(NvidiaGpus(lambda: nvml).temperatures)
    source.read()
    nvml.lost = True
    with pytest.raises(UnavailableError, match="the sensor reports no number"):
        source.read()


def test_driver_is_found_by_its_files(tmp_path):
    assert not has_driver([tmp_path / "version"])
    (tmp_path / "version").touch()
    assert has_driver([tmp_path / "version"])
