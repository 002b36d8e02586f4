"""macOS: lines of `macmon pipe`, and a fake Objective-C runtime.

NEW is the example of macmon's readme (September 2026) in one line with the aliases of its main.rs; M1_MAX is a line of
`macmon pipe --soc-info` 0.6 on an Apple M1 Max, published in an article of June 2026; OLD is the example of the readme
of macmon 0.6.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
import time

import pytest

from moe_watch.routing.events import Clock, Temperature
from moe_watch.vitals.heat.macmon import MOST_STARTS, NOT_INSTALLED, NOT_YET, STARTS_APART, Macmon
from moe_watch.vitals.heat.probe import heat_providers
from moe_watch.vitals.heat.temperature import Temperatures
from moe_watch.vitals.heat.thermal_level import FOUNDATION, RUNTIME, MacThermalLevel
from moe_watch.vitals.provider import UnavailableError
from tests.processes import wait_until

OLD = {
    "timestamp": "2025-02-24T20:38:15.427569+00:00",
    "temp": {"cpu_temp_avg": 43.73614, "gpu_temp_avg": 36.95167},
    "memory": {"ram_total": 25769803776, "ram_usage": 20985479168, "swap_total": 4294967296, "swap_usage": 2602434560},
    "ecpu_usage": [1181, 0.082656614],
    "pcpu_usage": [1974, 0.015181795],
    "gpu_usage": [461, 0.021497859],
    "cpu_power": 0.20486385,
    "all_power": 0.22231553,
}
NEW = OLD | {
    "fans": [{"name": "fan0", "rpm": 999, "max_rpm": 4900}],
    "cpu_scaled_ratio": 0.036854,
    "pcpu_freq_mhz": 1974,
    "pcpu_cores": [{"die_id": 0, "core_id": 0, "freq_mhz": 2100, "scaled_ratio": 0.05, "active_ratio": 0.08}],
}
M1_MAX = {
    "all_power": 0.494245052337647,
    "ecpu_usage": [1512, 0.255764722824097],
    "gpu_usage": [388, 0.132904022932053],
    "pcpu_usage": [1359, 0.0248227454721928],
    "soc": {
        "chip_name": "Apple M1 Max",
        "ecpu_freqs": [600, 972, 1332, 1704, 2064],
        "gpu_freqs": [0, 388, 486, 648, 777, 972, 1296],
        "pcpu_freqs": [600, 828, 1056, 1296, 1524, 1752, 1980, 2208, 2448, 2676, 2904, 3036, 3132, 3168, 3228],
    },
    "temp": {"cpu_temp_avg": 47.0178909301758, "gpu_temp_avg": 45.5415573120117},
}


class Seconds:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def macmon():
    """Starts a program in macmon's place that prints lines and then waits, or ends."""
    started = []

    def start(*lines, then="time.sleep(60)", clock=time.monotonic):
        code = f"import time\nfor line in {list(lines)!r}: print(line, flush=True)\n{then}"
        started.append(Macmon([sys.executable, "-c", code], clock))
        return started[-1]

    yield start
    for each in started:
        each.close()


def reported(source):
    def ready():
        try:
            source.temperatures()
        except UnavailableError:
            return False
        return True

    wait_until(ready, "a report")


@pytest.mark.parametrize("line", [OLD, NEW], ids=["old", "new"])
def test_a_line_of_each_version(macmon, line):
    source = macmon(json.dumps(line))
    reported(source)
    assert Temperatures(source.temperatures).read()["temperatures"] == [
        Temperature(sensor="Apple CPU mean", celsius=43.73614),
        Temperature(sensor="Apple GPU mean", celsius=36.95167),
    ]
    assert source.clocks() == [
        Clock(device="CPU", kind="cpu", mhz=1974.0),
        Clock(device="GPU", kind="gpu", mhz=461.0),
    ]


def test_chip_gives_the_highest_clocks(macmon):
    source = macmon(json.dumps(M1_MAX))
    reported(source)
    assert [(each.mhz, each.max) for each in source.clocks()] == [(1359.0, 3228.0), (388.0, 1296.0)]


def test_a_sensor_that_macmon_cannot_read_is_left_out(macmon):
    source = macmon(json.dumps({"temp": {"cpu_temp_avg": 43.7, "gpu_temp_avg": 0.0}}))
    reported(source)
    read = Temperatures(source.temperatures).read()
    assert [each.sensor for each in read["temperatures"]] == ["Apple CPU mean"]
    assert "not connected" in read["unavailable"]["Apple GPU mean"]


def test_an_old_report_is_no_reading(macmon):
    clock = Seconds()
    source = macmon(json.dumps(OLD), clock=clock)
    reported(source)
    clock.now += 5.1
    with pytest.raises(UnavailableError, match=NOT_YET):
        source.temperatures()


@pytest.mark.parametrize("line", ["no JSON", "[1]", '{"temp": 7}', "7" * 70000], ids=["no", "list", "no-table", "long"])
def test_output_that_is_no_report(macmon, line):
    source = macmon(line)

    def refused():
        with pytest.raises(UnavailableError) as caught:
            source.temperatures()
        return str(caught.value).startswith("macmon: its output is not understood")

    wait_until(refused, "the reason")


def test_a_process_that_ends_is_started_a_few_times_and_not_at_once(macmon):
    clock = Seconds()
    source = macmon(then="raise SystemExit(3)", clock=clock)
    seen = []
    for _ in range(10):
        with pytest.raises(UnavailableError):
            source.temperatures()
        process = source._process
        process.wait()
        seen.append(process.pid)
        with pytest.raises(UnavailableError, match="ended with status 3"):
            source.temperatures()
        clock.now += STARTS_APART + 1
    assert len(set(seen)) == MOST_STARTS


def test_process_ends_with_its_reader(macmon):
    source = Macmon([sys.executable, "-c", "import time; time.sleep(60)"])
    with pytest.raises(UnavailableError):
        source.temperatures()
    process = source._process
    del source
    gc.collect()
    wait_until(lambda: process.poll() is not None, "the end of the process")


def test_not_installed():
    with pytest.raises(UnavailableError, match=NOT_INSTALLED):
        Macmon(None).temperatures()
    with pytest.raises(UnavailableError, match="cannot be started"):
        Macmon(["/no/such/macmon"]).clocks()


def test_a_mac_without_macmon_has_its_reasons():
    reasons = {}
    for provider in heat_providers("darwin", lambda: Macmon(None)):
        try:
            provider.read()
        except UnavailableError as error:
            reasons |= dict.fromkeys(provider.fields, str(error))
    assert reasons["temperatures"] == reasons["clocks"] == NOT_INSTALLED
    assert reasons["throttling"] == "moe-watch has no source for throttling on darwin"


class Runtime:
    """Objective-C runtime with one class and two methods."""

    def __init__(self, state):
        self.asked = []
        names = {b"NSProcessInfo": 11, b"processInfo": 21, b"thermalState": 22}

        class Function:
            def __init__(self, call):
                self._call = call

            def __call__(self, name):
                assert self.argtypes == [ctypes.c_char_p]
                assert self.restype is ctypes.c_void_p
                return self._call(name)

        self.objc_getClass = Function(names.__getitem__)
        self.sel_registerName = Function(names.__getitem__)

        @ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
        def send(receiver, selector):
            self.asked.append((receiver, selector))
            return {(11, 21): 31, (31, 22): state}[receiver, selector]

        self.objc_msgSend = send


@pytest.mark.parametrize(("state", "level"), enumerate(["nominal", "fair", "serious", "critical"]))
def test_thermal_level(state, level):
    loaded = []
    runtime = Runtime(state)
    provider = MacThermalLevel(lambda path: loaded.append(path) or runtime)
    assert provider.read() == provider.read() == {"thermal_level": level}
    assert loaded == [FOUNDATION, RUNTIME]
    assert runtime.asked == [(11, 21), (31, 22), (31, 22)]


def test_unknown_thermal_state():
    with pytest.raises(UnavailableError, match="unknown thermal state, 4"):
        MacThermalLevel(lambda path: Runtime(4)).read()


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has one")
def test_other_systems_have_no_thermal_level():
    with pytest.raises(UnavailableError, match="only macOS"):
        MacThermalLevel().read()


@pytest.mark.skipif(sys.platform != "darwin", reason="asks macOS itself")
def test_this_mac():
    assert MacThermalLevel().read()["thermal_level"] in ("nominal", "fair", "serious", "critical")
