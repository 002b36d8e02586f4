"""Sensors of Linux, from made folders. Names, labels and units are those of the kernel's documentation: hwmon
(Documentation/hwmon/sysfs-interface.rst, coretemp.rst, k10temp.rst, nvme.rst, amdgpu/thermal.rst) and thermal zones
(Documentation/driver-api/thermal/sysfs-api.rst)."""

from __future__ import annotations

import os
import sys

import psutil
import pytest

from moe_watch.routing.events import Clock, Temperature, Vitals
from moe_watch.vitals.heat.clocks import NO_CPUFREQ, AmdGpuClocks, Clocks, LinuxCpuClocks
from moe_watch.vitals.heat.hwmon import LinuxSensors
from moe_watch.vitals.heat.probe import heat_providers, why_no_processor_sensor
from moe_watch.vitals.heat.processor_sensors import hottest, is_processor
from moe_watch.vitals.heat.temperature import NO_SENSORS, Temperatures
from moe_watch.vitals.provider import UnavailableError


def make(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")


LAPTOP = {
    "class/hwmon/hwmon0/name": "acpitz",
    "class/hwmon/hwmon0/temp1_input": 27800,
    "class/hwmon/hwmon1/name": "coretemp",
    "class/hwmon/hwmon1/temp1_label": "Package id 0",
    "class/hwmon/hwmon1/temp1_input": 61000,
    "class/hwmon/hwmon1/temp1_max": 100000,
    "class/hwmon/hwmon1/temp1_crit": 105000,
    "class/hwmon/hwmon1/temp2_label": "Core 0",
    "class/hwmon/hwmon1/temp2_input": 59500,
    "class/hwmon/hwmon1/temp10_label": "Core 8",
    "class/hwmon/hwmon1/temp10_input": 58000,
    "class/hwmon/hwmon2/name": "nvme",
    "class/hwmon/hwmon2/temp1_label": "Composite",
    "class/hwmon/hwmon2/temp1_input": 38850,
    "class/hwmon/hwmon2/temp1_max": 65261850,
    "class/hwmon/hwmon3/name": "nvme",
    "class/hwmon/hwmon3/temp1_label": "Composite",
    "class/hwmon/hwmon3/temp1_input": 40850,
    "class/hwmon/hwmon4/name": "amdgpu",
    "class/hwmon/hwmon4/temp1_label": "edge",
    "class/hwmon/hwmon4/temp1_input": 55000,
    "class/hwmon/hwmon4/temp1_crit": 100000,
    "class/hwmon/hwmon4/temp2_label": "junction",
    "class/hwmon/hwmon4/temp2_input": 71000,
    "class/thermal/thermal_zone0/type": "acpitz",
    "class/thermal/thermal_zone0/temp": 27800,
    "class/thermal/thermal_zone1/type": "x86_pkg_temp",
    "class/thermal/thermal_zone1/temp": 61000,
    "class/thermal/thermal_zone2/type": "TCPU",
    "class/thermal/thermal_zone2/temp": 60000,
    "class/thermal/thermal_zone2/trip_point_0_type": "passive",
    "class/thermal/thermal_zone2/trip_point_0_temp": 95000,
    "class/thermal/thermal_zone2/trip_point_1_type": "critical",
    "class/thermal/thermal_zone2/trip_point_1_temp": 107000,
}


class TestSensors:
    def test_every_sensor_once_with_its_limits(self, tmp_path):
        make(tmp_path, LAPTOP)
        assert Temperatures(LinuxSensors(tmp_path)).read()["temperatures"] == [
            Temperature(sensor="acpitz", celsius=27.8),
            Temperature(sensor="coretemp Package id 0", celsius=61.0, high=100.0, critical=105.0),
            Temperature(sensor="coretemp Core 0", celsius=59.5),
            Temperature(sensor="coretemp Core 8", celsius=58.0),
            Temperature(sensor="nvme Composite", celsius=38.85),
            Temperature(sensor="nvme Composite #2", celsius=40.85),
            Temperature(sensor="amdgpu edge", celsius=55.0, critical=100.0),
            Temperature(sensor="amdgpu junction", celsius=71.0),
            Temperature(sensor="TCPU", celsius=60.0, critical=107.0),
        ]

    def test_an_arm_board_has_zones_only(self, tmp_path):
        make(tmp_path, {"class/thermal/thermal_zone0/type": "cpu-thermal", "class/thermal/thermal_zone0/temp": 48312})
        (found,) = Temperatures(LinuxSensors(tmp_path)).read()["temperatures"]
        assert found == Temperature(sensor="cpu-thermal", celsius=48.312)
        assert is_processor(found.sensor)

    def test_a_sensor_that_vanishes_has_a_reason_and_the_others_their_values(self, tmp_path):
        make(tmp_path, LAPTOP)
        source = Temperatures(LinuxSensors(tmp_path))
        source.read()
        (tmp_path / "class/hwmon/hwmon1/temp1_input").unlink()
        read = source.read()
        assert read["unavailable"] == {"coretemp Package id 0": "the sensor reports no number"}
        assert len(read["temperatures"]) == 8

    def test_a_reading_opens_no_more_files_than_there_are_sensors(self, tmp_path, monkeypatch):
        make(tmp_path, LAPTOP)
        sensors = LinuxSensors(tmp_path)
        sensors()
        opened = []
        from moe_watch.vitals.heat import hwmon

        real = hwmon.text
        monkeypatch.setattr(hwmon, "text", lambda path: opened.append(path) or real(path))
        sensors()
        assert len(opened) == 9

    def test_none(self, tmp_path):
        with pytest.raises(UnavailableError, match=NO_SENSORS):
            Temperatures(LinuxSensors(tmp_path)).read()

    @pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's sysfs")
    def test_as_many_as_psutil_finds_on_this_machine(self):
        ours = {(chip, entry.label) for chip, entries in LinuxSensors()().items() for entry in entries}
        theirs = {(chip, entry.label) for chip, entries in psutil.sensors_temperatures().items() for entry in entries}
        assert theirs <= ours


class TestProcessorSensors:
    @pytest.mark.parametrize(
        "sensor",
        [
            "coretemp Package id 0",
            "k10temp Tctl",
            "zenpower Tdie",
            "cpu_thermal",
            "cpu-thermal",
            "soc_thermal",
            "gpu-thermal",
            "x86_pkg_temp",
            "TCPU",
            "amdgpu junction",
            "NVIDIA GPU 0",
            "Apple CPU mean",
            "cpu0-thermal",
            "cpu",
            "bigcore0_cpu-thermal",
        ],
    )
    def test_inside_a_processor(self, sensor):
        assert is_processor(sensor)

    @pytest.mark.parametrize(
        "sensor",
        [
            "acpitz",
            "nvme Composite",
            "iwlwifi_1",
            "BAT0",
            "nct6775 CPUTIN",
            "spd5118",
            "drivetemp",
            "pch_cannonlake",
            "jc42",
            "ucsi_source_psy",
            "ath11k_hwmon",
            "asus CPU-less",
        ],
    )
    def test_elsewhere(self, sensor):
        assert not is_processor(sensor)

    def test_the_hottest_drive_does_not_count(self):
        found = [Temperature(sensor="nvme Composite", celsius=84.0), Temperature(sensor="k10temp Tctl", celsius=61.0)]
        assert hottest(Vitals(t=0.0, temperatures=found)).sensor == "k10temp Tctl"
        assert hottest(Vitals(t=0.0, temperatures=found[:1])) is None

    def test_why_there_is_none(self, tmp_path):
        assert why_no_processor_sensor([Temperatures(LinuxSensors(tmp_path))]) == NO_SENSORS
        make(tmp_path, {"class/hwmon/hwmon0/name": "nvme", "class/hwmon/hwmon0/temp1_input": 38000})
        assert why_no_processor_sensor([Temperatures(LinuxSensors(tmp_path))]) == (
            "the sensors here measure other parts (nvme)"
        )
        make(tmp_path, LAPTOP)
        assert why_no_processor_sensor([Temperatures(LinuxSensors(tmp_path))]) == ""


class TestCpuClocks:
    @pytest.fixture
    def machine(self, tmp_path):
        """Four cores in two packages. `/proc/stat` as in proc(5): user, nice, system, idle, iowait, irq, softirq, …"""

        def write(mhz, times):
            for core, value in enumerate(mhz):
                folder = f"cpu{core}"
                make(
                    tmp_path,
                    {
                        f"{folder}/cpufreq/scaling_cur_freq": round(value * 1000),
                        f"{folder}/cpufreq/cpuinfo_max_freq": 4800000,
                        f"{folder}/topology/physical_package_id": core // 2,
                    },
                )
            rows = [f"cpu{core} {user} 0 0 {idle} 0 0 0 0 0 0" for core, (user, idle) in enumerate(times)]
            make(tmp_path, {"stat": "\n".join(["cpu  0 0 0 0 0 0 0 0 0 0", *rows, "intr 1"])})
            return tmp_path

        return write

    def test_mean_of_busy_cores_per_package(self, machine):
        root = machine([3000, 3400, 800, 800], [(0, 0)] * 4)
        clocks = LinuxCpuClocks(root, root / "stat")
        clocks()
        machine([3000, 3400, 800, 4000], [(90, 10), (80, 20), (0, 100), (100, 0)])
        assert clocks() == [
            Clock(device="CPU 0", kind="cpu", mhz=3200.0, max=4800.0),
            Clock(device="CPU 1", kind="cpu", mhz=4000.0, max=4800.0),
        ]

    def test_without_a_busy_core_the_busiest(self, machine):
        root = machine([800] * 4, [(0, 0)] * 4)
        clocks = LinuxCpuClocks(root, root / "stat")
        clocks()
        machine([900, 1200, 800, 800], [(10, 90), (20, 80), (0, 100), (1, 99)])
        assert [each.mhz for each in clocks()] == [1200.0, 800.0]

    def test_a_virtual_machine_has_none(self, tmp_path):
        (tmp_path / "cpu0").mkdir()
        with pytest.raises(UnavailableError, match="virtual machines"):
            Clocks(LinuxCpuClocks(tmp_path)).read()

    @pytest.mark.skipif(os.path.exists("/sys/devices/system/cpu/cpu0/cpufreq"), reason="this machine has clocks")
    def test_this_machine(self):
        (provider,) = (each for each in heat_providers("linux") if each.fields == ("clocks",))
        with pytest.raises(UnavailableError) as caught:
            provider.read()
        assert str(caught.value) == NO_CPUFREQ


def test_amd_gpu(tmp_path):
    """Format of amdgpu's `pp_dpm_sclk` (Documentation/gpu/amdgpu/thermal.rst)."""
    make(tmp_path, {"class/drm/card0/device/pp_dpm_sclk": "0: 500Mhz\n1: 1862Mhz *\n2: 2575Mhz"})
    (tmp_path / "class/drm/card1/device").mkdir(parents=True)
    assert AmdGpuClocks(tmp_path)() == [Clock(device="AMD GPU 0", kind="gpu", mhz=1862.0, max=2575.0)]
    make(tmp_path, {"class/drm/card0/device/pp_dpm_sclk": ""})
    assert AmdGpuClocks(tmp_path)() == []
