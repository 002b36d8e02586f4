"""Checks of the machine: made folders, made readings, engines that are missing, slow, broken or silent."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections import namedtuple
from pathlib import Path

import pytest

from moe_watch.backends.engine_build import EngineBuild
from moe_watch.backends.memory.available import AvailableMemory
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Clock, GpuMemory, MemoryPressure, Temperature, Vitals
from moe_watch.sessions.checking import engines, machine, time_limit
from moe_watch.sessions.checking.results import fine
from moe_watch.vitals.sampler import VitalsSampler

BUILD = EngineBuild(version="1", devices=["CPU (x)"], features=["AVX2", "F16C"], tap="a compiled callback")


class TestDisk:
    def test_a_file_is_really_written_and_removed(self, tmp_path: Path) -> None:
        folder = tmp_path / "a" / "sessions"
        found = machine.disk_check(folder)
        assert found.status in ("ok", "warning")
        assert str(folder) in found.value
        assert list(folder.iterdir()) == []

    def test_a_folder_that_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("in the way")
        found = machine.disk_check(tmp_path / "file" / "sessions")
        assert found.status == "fail"
        assert "cannot be written (Not a directory)" in found.value
        assert "--output" in found.advice

    @pytest.mark.parametrize(("free", "status"), [(10_000_000, "fail"), (500_000_000, "warning"), (2 * 10**9, "ok")])
    def test_room(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, status: str) -> None:
        usage = namedtuple("usage", "total used free")
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**12, 10**12 - free, free))
        assert machine.disk_check(tmp_path).status == status

    def test_a_full_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(_descriptor: int, _data: bytes) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "write", full)
        found = machine.disk_check(tmp_path)
        assert (found.status, "No space left on device" in found.value) == ("fail", True)
        assert list(tmp_path.iterdir()) == []


class TestSensors:
    def test_each_absent_reading_has_its_reason(self) -> None:
        checks = machine.sensor_results(
            Vitals(
                t=0, swap_total=0, unavailable={"temperatures": "no sensors", "pressure": "no PSI", "other_one": "gone"}
            )
        )
        by_name = {each.name: (each.status, each.value) for each in checks}
        assert by_name["temperatures"] == ("warning", "unavailable: no sensors")
        assert by_name["memory pressure"] == ("warning", "unavailable: no PSI")
        assert by_name["swap"] == ("ok", "no swap is configured")
        assert by_name["other one"] == ("warning", "unavailable: gone")
        assert by_name["memory group"] == ("ok", machine.NOT_LIMITED)
        assert by_name["thermal level"] == ("ok", "none on this system: macOS has one")
        assert by_name["clocks"] == ("warning", "unavailable: no value was read")

    def test_every_field_of_vitals_has_a_check(self) -> None:
        """A new reading must be shown by name: `memory`, `memory in use` and `disk reads` have their own checks."""
        elsewhere = {
            "t",
            "unavailable",
            "memory_total",
            "memory_used",
            "memory_available",
            "process_memory",
            "worker_memory",
            "model_memory",
        }
        shown = {field for fields in machine.SOURCES.values() for field in fields} | machine.SHARED
        assert shown | elsewhere == set(Vitals.__struct_fields__)

    def test_a_source_with_one_of_two_readings_shows_both(self) -> None:
        vitals = Vitals(t=0, worker_read=5_000_000, unavailable={"worker_faults": "not counted"})
        [found] = [each for each in machine.sensor_results(vitals) if each.name == "disk reads"]
        assert found.status == "warning"
        assert found.value == "counted: 5 MB by this process; unavailable: not counted"

    def test_this_machine_has_a_line_for_every_source(self) -> None:
        found = {each.name: each for each in machine.sensor_checks()}
        assert set(machine.SOURCES) <= set(found)
        assert all(each.value and each.status != "fail" for each in found.values())
        assert all("no value was read" not in each.value for each in found.values())

    def test_a_reason_is_given_once(self) -> None:
        """The source of throttling is absent for the reason that throttling is."""
        absent = {"throttling": "no counters", "throttling_source": "no counters", "clocks": "no cpufreq"}
        by_name = {each.name: each.value for each in machine.sensor_results(Vitals(t=0, unavailable=absent))}
        assert by_name["throttling"] == "unavailable: no counters"
        assert by_name["clocks"] == "unavailable: no cpufreq"
        assert sum("no counters" in value for value in by_name.values()) == 1

    def test_readings_are_shown(self) -> None:
        vitals = Vitals(
            t=0,
            swap_total=4 * 10**9,
            swap_used=10**9,
            swapped_in=2_000_000,
            swapped_out=3_000_000,
            worker_read=5_000_000,
            worker_faults=1,
            group_events={"high": 3, "oom_kill": 0},
            thermal_level="fair",
            clocks=[Clock(device="core 0", kind="cpu", mhz=2400, max=4000), Clock(device="GPU", kind="gpu", mhz=900)],
            gpu_memory=[GpuMemory(device="GPU 0", used=2 * 10**9, total=24 * 10**9)],
            throttling_source="NVML: power cap",
            pressure=MemoryPressure(level="critical", source="PSI some avg10", stalled=0.469),
            temperatures=[Temperature(sensor="cpu", celsius=71.6)],
            throttling=True,
        )
        by_name = {each.name: each.value for each in machine.sensor_results(vitals)}
        assert by_name["memory pressure"] == "critical (PSI some avg10, 46.9 % of the time stalled)"
        assert by_name["temperatures"] == "cpu 72 °C"
        assert by_name["throttling"] == "throttled now (NVML: power cap)"
        assert by_name["swap"] == "1.0 GB of 4.0 GB used; 2 MB read back and 3 MB written since the start"
        assert by_name["disk reads"] == "counted: 5 MB by this process; 1 major page fault"
        assert by_name["memory group"] == "events since its creation: high 3, oom_kill 0"
        assert by_name["thermal level"] == "fair"
        assert by_name["clocks"] == "core 0 2,400 of 4,000 MHz, GPU 900 MHz"
        assert by_name["GPU memory"] == "GPU 0 2.0 GB of 24.0 GB"

    def test_two_readings_are_made(self) -> None:
        paused: list[float] = []
        reads: list[int] = []

        class Once:
            fields = ("throttling",)

            def read(self) -> dict[str, bool]:
                reads.append(1)
                return {"throttling": False}

        machine.sensor_checks(VitalsSampler(lambda: 0.0, lambda: None, [Once()]), pause=paused.append)
        assert (len(reads), paused) == (2, [machine.BETWEEN_READINGS])


@pytest.mark.parametrize(("free", "status"), [(500_000_000, "warning"), (8 * 10**9, "ok")])
def test_memory(free: int, status: str) -> None:
    found = machine.memory_check(lambda: AvailableMemory(free, 10**10, "container"))
    assert found.status == status
    assert found.value.endswith("left of the container's memory limit of 10.0 GB")


def test_settings(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    assert machine.settings_check(file).value == f"defaults; {file} does not exist"
    file.write_text("[memory]\nwarning_stall = 0.2\n")
    assert machine.settings_check(file).status == "ok"
    file.write_text("[memory]\nwarning = 0.2\n")
    found = machine.settings_check(file)
    assert (found.status, "warning" in found.value) == ("fail", True)


class TestEngines:
    def test_a_good_build(self) -> None:
        found = engines.engine_check("llama.cpp", ask=lambda _: BUILD)
        assert (found.status, found.value) == ("ok", "1; CPU (x); AVX2; tap: a compiled callback")

    def test_a_slow_tap_is_a_warning_with_the_reason(self) -> None:
        slow = EngineBuild(version="1", devices=["CPU (x)"], tap="a callback in Python", slow="no C compiler was found")
        found = engines.engine_check("llama.cpp", ask=lambda _: slow)
        assert found.status == "warning"
        assert "slow, because no C compiler was found" in found.value
        assert "C compiler" in found.advice

    def test_a_broken_engine(self) -> None:
        def broken(_: str) -> EngineBuild:
            raise UserError("it cannot be imported: ImportError: libcuda", advice="install it again")

        found = engines.engine_check("mlx", ask=broken)
        assert (found.status, found.advice) == ("fail", "install it again")

    @pytest.mark.parametrize(("present", "status"), [({"mlx"}, "warning"), (set(), "fail")])
    def test_a_missing_engine(self, monkeypatch: pytest.MonkeyPatch, present: set[str], status: str) -> None:
        entries = engines.ENGINES
        monkeypatch.setattr(
            engines,
            "missing_packages",
            lambda entry: [] if any(entries[name] is entry for name in present) else list(entry.packages),
        )
        found = engines.engine_check("llama.cpp")
        assert (found.status, found.value) == (status, "not installed (llama_cpp)")
        assert "GGUF files" in found.advice


class TestTimeLimit:
    def test_a_check_that_hangs_is_a_failure(self) -> None:
        release = threading.Event()

        def hang() -> list:
            release.wait(60)
            return []

        began = time.monotonic()
        [found] = time_limit.within("sensors", 0.2, hang, time_limit.Cancellation())
        release.set()
        assert (found.name, found.status) == ("sensors", "fail")
        assert found.value == "no answer within 0.2 s"
        assert time.monotonic() - began < 10

    def test_leaving_does_not_wait(self) -> None:
        cancellation, release = time_limit.Cancellation(), threading.Event()
        threading.Timer(0.1, cancellation.cancel).start()
        with pytest.raises(time_limit.Cancelled):
            time_limit.within("disk", 3600, lambda: [fine("disk", str(release.wait(60)))], cancellation)
        release.set()

    def test_a_check_that_raises_does_not_end_the_others(self) -> None:
        def broken() -> list:
            raise ZeroDivisionError("by zero\nsecond line")

        [found] = time_limit.within("memory", 60, broken, time_limit.Cancellation())
        assert found.value == "the check itself failed: ZeroDivisionError: by zero"
