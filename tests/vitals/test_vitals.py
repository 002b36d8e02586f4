from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest

from moe_watch.routing.events import Temperature, Vitals
from moe_watch.vitals.cgroup import GroupMemory
from moe_watch.vitals.heat.temperature import NO_SENSORS, Temperatures
from moe_watch.vitals.heat.throttling import KernelCounters, Throttling
from moe_watch.vitals.memory import ProcessMemory, Swap, SystemMemory
from moe_watch.vitals.provider import UnavailableError
from moe_watch.vitals.sampler import VitalsSampler


def reason(provider):
    with pytest.raises(UnavailableError) as caught:
        provider.read()
    return str(caught.value)


class TestMemory:
    def test_this_machine(self):
        values = SystemMemory().read()
        assert set(values) == set(SystemMemory.fields)
        assert 0 < values["memory_used"] < values["memory_total"] <= psutil.virtual_memory().total
        assert 0 < values["memory_available"] <= values["memory_total"]

    def test_no_swap_is_a_total_of_zero(self):
        read = Swap(lambda: SimpleNamespace(total=0, used=0), lambda: (0, 0)).read()
        assert read == {"swap_total": 0, "swap_used": 0, "swapped_in": 0, "swapped_out": 0}

    @pytest.mark.parametrize(
        ("total", "used", "available", "said"),
        [
            (0, 0, 0, "0 bytes of memory"),
            (-1, 0, 0, "-1 bytes of memory"),
            (100, 101, 0, "101 bytes used of 100"),
            (100, -1, 50, "-1 bytes used of 100"),
            (100, 50, 2**63 - 4096, "9,223,372,036,854,771,712 bytes available of 100"),
        ],
    )
    def test_sizes_that_do_not_add_up_are_no_reading(self, total, used, available, said):
        memory = SimpleNamespace(total=total, used=used, available=available)
        assert said in reason(SystemMemory(lambda: memory, lambda total: None))

    def test_a_container_has_the_memory_of_its_group(self):
        machine = SimpleNamespace(total=64_000, used=10_000, available=50_000)
        assert SystemMemory(lambda: machine, lambda total: GroupMemory(8_000, 5_000)).read() == {
            "memory_total": 8_000,
            "memory_used": 5_000,
            "memory_available": 3_000,
        }
        assert SystemMemory(lambda: machine, lambda total: None).read()["memory_total"] == 64_000

    @pytest.mark.parametrize(("total", "used"), [(-1, 0), (0, 1), (100, -1), (100, 101)])
    def test_swap_that_does_not_add_up_is_no_reading(self, total, used):
        assert "bytes" in reason(Swap(lambda: SimpleNamespace(total=total, used=used)))

    def test_a_zombie_has_ended(self):
        with subprocess.Popen([sys.executable, "-c", ""]) as process:
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody has collected it
            assert reason(ProcessMemory("worker_memory", lambda: process.pid)) == "the process has ended"

    def test_own_process(self):
        (resident,) = ProcessMemory("process_memory", os.getpid).read().values()
        assert 5_000_000 < resident < psutil.virtual_memory().total

    def test_no_process_yet(self):
        assert reason(ProcessMemory("worker_memory", lambda: None)) == "the process is not running"

    def test_process_that_has_ended(self):
        process = subprocess.Popen([sys.executable, "-c", ""])
        process.wait()
        assert reason(ProcessMemory("worker_memory", lambda: process.pid)) == "the process has ended"


class TestTemperatures:
    # As psutil gives them on a laptop; the drive's missing limit is what its firmware reports.
    LAPTOP = {  # noqa: RUF012
        "coretemp": [
            SimpleNamespace(label="Package id 0", current=61.0, high=100.0, critical=100.0),
            SimpleNamespace(label="Core 0", current=59.5, high=100.0, critical=100.0),
        ],
        "nvme": [SimpleNamespace(label="Sensor 1", current=38.85, high=65261.85, critical=65261.85)],
        "acpitz": [SimpleNamespace(label="", current=27.8, high=None, critical=None)],
    }

    def test_every_sensor_under_its_own_name(self):
        assert Temperatures(lambda: self.LAPTOP).read()["temperatures"] == [
            Temperature(sensor="coretemp Package id 0", celsius=61.0, high=100.0, critical=100.0),
            Temperature(sensor="coretemp Core 0", celsius=59.5, high=100.0, critical=100.0),
            Temperature(sensor="nvme Sensor 1", celsius=38.85),
            Temperature(sensor="acpitz", celsius=27.8),
        ]

    @pytest.mark.parametrize(("high", "limit"), [(0.0, None), (0.5, 0.5), (999.0, 999.0), (1000.0, None)])
    def test_a_limit_that_none_can_be_is_left_out(self, high, limit):
        entry = SimpleNamespace(label="", current=30.0, high=high, critical=high)
        assert Temperatures(lambda: {"nct6775": [entry]}).read()["temperatures"] == [
            Temperature(sensor="nct6775", celsius=30.0, high=limit, critical=limit)
        ]

    @pytest.mark.parametrize(
        "celsius",
        [-273.0, -273.15, -128.0, -40.0, 0.0, 65.535, 125.0, 127.0, 127.5, 255.0, 65261.85, float("nan"), float("inf")],
    )
    def test_a_reading_that_none_can_be_is_unavailable_with_its_reason(self, celsius):
        broken = SimpleNamespace(label="AUXTIN0", current=celsius, high=None, critical=None)
        good = SimpleNamespace(label="SYSTIN", current=31.0, high=None, critical=None)
        read = Temperatures(lambda: {"nct6775": [broken, good]}).read()
        assert read["temperatures"] == [Temperature(sensor="nct6775 SYSTIN", celsius=31.0)]
        assert list(read["unavailable"]) == ["nct6775 AUXTIN0"]
        assert read["unavailable"]["nct6775 AUXTIN0"]
        only = reason(Temperatures(lambda: {"nct6775": [broken]}))
        assert only == f"no plausible reading (nct6775 AUXTIN0: {read['unavailable']['nct6775 AUXTIN0']})"

    @pytest.mark.parametrize(
        "label", ["Critical", "T_CRIT crit", "Max", "high limit", "Composite threshold", "TjMax", "Tcontrol", "trip 1"]
    )
    def test_a_sensor_named_for_a_threshold_measures_nothing(self, label):
        entry = SimpleNamespace(label=label, current=95.0, high=None, critical=None)
        assert "by its name" in reason(Temperatures(lambda: {"acpitz": [entry]}))

    @pytest.mark.parametrize(
        ("chip", "label"), [("max6650", ""), ("k10temp", "Tctl"), ("nvme", "Composite"), ("x", "Slow")]
    )
    def test_names_that_only_resemble_one_are_sensors(self, chip, label):
        entry = SimpleNamespace(label=label, current=41.0, high=None, critical=None)
        assert len(Temperatures(lambda: {chip: [entry]}).read()["temperatures"]) == 1

    @pytest.mark.parametrize("celsius", [-39.9, 0.1, 21.0, 65.5, 99.0, 124.9])
    def test_a_reading_that_can_be_is_shown(self, celsius):
        entry = SimpleNamespace(label="", current=celsius, high=None, critical=None)
        assert Temperatures(lambda: {"acpitz": [entry]}).read()["temperatures"][0].celsius == celsius

    def test_no_sensors(self):
        assert reason(Temperatures(dict)) == NO_SENSORS

    def test_no_interface(self, monkeypatch):
        monkeypatch.delattr(psutil, "sensors_temperatures", raising=False)
        assert reason(Temperatures(platform="win32")) == "psutil reads no temperatures on win32"


class TestThrottling:
    @pytest.fixture
    def cpus(self, tmp_path):
        def write(*counts):
            for number, events in enumerate(counts):
                folder = tmp_path / f"cpu{number}" / "thermal_throttle"
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "package_throttle_count").write_text(f"{events}\n")
            return tmp_path

        return write

    def test_known_from_the_second_reading_on(self, cpus):
        throttling = Throttling(KernelCounters(cpus(5, 5), "linux"))
        assert reason(throttling) == "available from the second reading on"
        assert throttling.read() == {"throttling": False, "throttling_source": "kernel counters"}
        cpus(5, 6)
        assert throttling.read() == {"throttling": True, "throttling_source": "kernel counters"}
        assert throttling.read()["throttling"] is False

    def test_no_counters(self, tmp_path):
        (tmp_path / "cpufreq").mkdir()
        (tmp_path / "cpu0").mkdir()
        assert "Intel processors only" in reason(Throttling(KernelCounters(tmp_path, "linux")))

    def test_other_systems(self, tmp_path):
        assert (
            reason(Throttling(KernelCounters(tmp_path, "darwin"))) == "moe-watch has no source for throttling on darwin"
        )


class TestSampler:
    def test_this_machine(self):
        vitals = VitalsSampler(lambda: 12.5, os.getpid).read()
        assert vitals.t == 12.5
        assert 0 < vitals.memory_total <= psutil.virtual_memory().total
        assert vitals.worker_memory > 5_000_000
        for field in Vitals.__struct_fields__:
            if field in ("model_memory", "thermal_level", "gpu_memory"):  # of the worker, of macOS, of NVIDIA
                continue
            absent = getattr(vitals, field) in (None, [])
            assert absent == (field in vitals.unavailable) or field == "unavailable", field
        assert all(vitals.unavailable.values())

    def test_each_absent_field_has_its_reason_and_the_others_their_values(self):
        providers = [SystemMemory(), ProcessMemory("worker_memory", lambda: None), Temperatures(dict)]
        vitals = VitalsSampler(lambda: 0.0, lambda: None, providers).read()
        assert vitals.memory_total
        assert vitals.unavailable == {"worker_memory": "the process is not running", "temperatures": NO_SENSORS}

    def test_a_sensor_that_cannot_be_believed_is_named_beside_those_that_can(self):
        entries = [
            SimpleNamespace(label=name, current=t, high=None, critical=None) for name, t in (("a", 40.0), ("b", -273.0))
        ]
        vitals = VitalsSampler(lambda: 0.0, lambda: None, [Temperatures(lambda: {"chip": entries})]).read()
        assert [each.sensor for each in vitals.temperatures] == ["chip a"]
        assert vitals.unavailable == {"chip b": "it reads -273 °C, which no running machine has"}

    def test_a_source_that_breaks_is_named_and_stops_nothing(self):
        def broken():
            raise RuntimeError("sensor on fire")

        vitals = VitalsSampler(lambda: 0.0, lambda: None, [SystemMemory(broken), Swap()]).read()
        assert vitals.memory_total is None
        assert vitals.swap_total is not None
        assert vitals.unavailable == dict.fromkeys(SystemMemory.fields, "reading failed: sensor on fire")

    def test_worker_is_asked_for_anew_each_time(self):
        pids = iter([None, os.getpid()])
        sampler = VitalsSampler(lambda: 0.0, lambda: None, [ProcessMemory("worker_memory", lambda: next(pids))])
        assert sampler.read().worker_memory is None
        assert sampler.read().worker_memory
