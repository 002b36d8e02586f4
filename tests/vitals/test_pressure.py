"""Memory pressure: samples of real PSI files, the rule, its thresholds, and sources that fail or vanish."""

from __future__ import annotations

import sys

import pytest

from moe_watch.vitals import sysctl
from moe_watch.vitals.pressure import LinuxStalls, Pressure, macos_level, stall_verdicts, system_pressure
from moe_watch.vitals.provider import UnavailableError
from moe_watch.vitals.stalls import Stalls, read_stalls
from moe_watch.vitals.thresholds import MemoryThresholds

# /proc/pressure/memory of Linux 6.18: an idle machine, and one that ran a mapped model in a control group of two thirds
# of its size.
QUIET = """\
some avg10=0.00 avg60=0.00 avg300=0.00 total=0
full avg10=0.00 avg60=0.00 avg300=0.00 total=0
"""
THRASHING = """\
some avg10=21.60 avg60=13.75 avg300=4.17 total=17601965
full avg10=8.42 avg60=5.61 avg300=1.72 total=8300860
"""
# The form of the kernel's documentation (Documentation/accounting/psi.rst), with numbers of a machine near its end.
LOADED = """\
some avg10=46.91 avg60=29.08 avg300=8.75 total=47163914
full avg10=44.02 avg60=27.14 avg300=8.15 total=44122862
"""
DEFAULT = MemoryThresholds()
MACHINE = {"memory_total": 16_000_000_000, "reclaimable": 8_000_000_000}


class Last:
    """Provider with these latest values."""

    def __init__(self, last=None):
        self.last = last


class NoGroup:
    pressure_file = None


@pytest.fixture
def psi(tmp_path):
    def write(text, name="memory"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def reason(call):
    with pytest.raises(UnavailableError) as caught:
        call()
    return str(caught.value)


def pressure_of(*, memory=MACHINE, swap=None, events=None, stalls=None, thresholds=DEFAULT, **others):
    provider = Pressure(Last(memory), Last(swap), Last(events), thresholds, stalls=stalls, **others)
    return provider.read()["pressure"]


class TestStalls:
    def test_both_shares_of_a_real_file(self, psi):
        assert read_stalls(psi(QUIET)) == Stalls(0.0, 0.0)
        assert read_stalls(psi(THRASHING), of_group=True) == Stalls(0.216, 0.0842, of_group=True)

    def test_files_of_old_kernels_have_one_line(self, psi):
        assert read_stalls(psi("some avg10=1.50 avg60=0.00 avg300=0.00 total=9\n")) == Stalls(0.015, None)

    @pytest.mark.parametrize("average", ["100.01", "655.35", "4294967295.00"])
    def test_more_than_all_of_the_time_is_no_reading(self, psi, average):
        path = psi(f"some avg10={average} avg60=0.00 avg300=0.00 total=0\n")
        assert "more than 100 %" in reason(lambda: read_stalls(path))

    def test_kernel_without_it(self, tmp_path):
        found = reason(lambda: read_stalls(tmp_path / "none"))
        assert found == "the kernel has no pressure stall information (PSI)"

    def test_file_of_another_shape(self, psi):
        path = psi("full avg10=0.00\n")
        assert reason(lambda: read_stalls(path)).endswith("has no `some avg10`")

    def test_the_group_is_read_beside_the_machine(self, psi):
        group = NoGroup()
        group.pressure_file = psi(LOADED, "group")
        assert LinuxStalls(group, psi(QUIET)).read() == [Stalls(0.0, 0.0), Stalls(0.4691, 0.4402, of_group=True)]

    def test_one_of_the_two_is_enough(self, psi, tmp_path):
        group = NoGroup()
        group.pressure_file = psi(LOADED, "group")
        assert [each.of_group for each in LinuxStalls(group, tmp_path / "none").read()] == [True]
        group.pressure_file = tmp_path / "none"
        assert [each.of_group for each in LinuxStalls(group, psi(QUIET)).read()] == [False]
        assert reason(LinuxStalls(group, tmp_path / "none").read)


class TestRule:
    @pytest.mark.parametrize(
        ("some", "full", "levels"),
        [
            (0.0, 0.0, ["ok", "ok"]),
            (0.099, 0.049, ["ok", "ok"]),
            (0.10, 0.05, ["warning", "warning"]),
            (0.399, 0.199, ["warning", "warning"]),
            (0.40, 0.20, ["critical", "critical"]),
            (0.3, None, ["warning"]),
        ],
    )
    def test_levels_of_stalled_time(self, some, full, levels):
        assert [verdict.level for verdict in stall_verdicts(Stalls(some, full), DEFAULT)] == levels

    def test_the_tighter_of_machine_and_group_binds(self):
        found = pressure_of(stalls=lambda: [Stalls(0.12, 0.01), Stalls(0.45, 0.30, of_group=True)])
        assert (found.level, found.source, found.stalled, found.stalled_full) == (
            "critical", "PSI some avg10 of the group", 0.45, 0.30
        )  # fmt: skip
        assert found.reason == "tasks of the control group waited for memory 45.0 % of 10 s, limit 40 %"
        other = pressure_of(stalls=lambda: [Stalls(0.45, 0.01), Stalls(0.12, 0.01, of_group=True)])
        assert (other.level, other.source) == ("critical", "PSI some avg10")

    def test_ok_has_no_reason(self):
        found = pressure_of(stalls=lambda: [Stalls(0.0, 0.0)])
        assert (found.level, found.source, found.reason) == ("ok", "PSI some avg10", "")

    @pytest.mark.parametrize(
        ("available", "swap", "level"),
        [
            (1_700, None, "ok"),
            (1_600, None, "warning"),
            (801, None, "warning"),
            (800, None, "critical"),
            (800, {"swap_total": 0, "swap_used": 0}, "critical"),
            (800, {"swap_total": 1000, "swap_used": 100}, "warning"),
            (800, {"swap_total": 1000, "swap_used": 900}, "critical"),
        ],
    )
    def test_available_memory_is_critical_only_without_free_swap(self, available, swap, level):
        memory = {"memory_total": 16_000, "reclaimable": available}
        found = pressure_of(memory=memory, swap=swap, stalls=lambda: [Stalls(0.0, 0.0)])
        assert found.level == level
        assert (found.source == "available memory") == (level != "ok")

    def test_without_psi_available_memory_gives_the_level(self):
        def none():
            raise UnavailableError("no PSI")

        found = pressure_of(stalls=none)
        assert (found.level, found.source, found.stalled) == ("ok", "available memory", None)

    def test_without_any_source_it_is_unavailable_with_the_first_reason(self):
        def none():
            raise UnavailableError("no PSI")

        assert reason(lambda: pressure_of(memory=None, stalls=none)) == "no PSI"
        assert "neither" in reason(lambda: pressure_of(memory=None))

    def test_swap_in_warns_and_needs_two_readings(self):
        swap, times = Last({"swap_total": 8, "swap_used": 0, "swapped_in": 0}), iter([0.0, 0.5, 1.0, 1.5])
        provider = Pressure(
            Last(MACHINE), swap, Last(), DEFAULT, stalls=lambda: [Stalls(0.0, 0.0)], clock=lambda: next(times)
        )
        levels = []
        for total in (900_000_000, 904_900_000, 914_900_000, 3_000):  # 9.8 MB/s, 20 MB/s, then a counter that restarted
            swap.last = {"swap_total": 8, "swap_used": 0, "swapped_in": total}
            levels.append(provider.read()["pressure"])
        assert [each.level for each in levels] == ["ok", "ok", "warning", "ok"]
        assert levels[2].reason == "20 MB/s read from swap, limit 10 MB/s"

    def test_a_kill_in_the_group_is_critical_once(self):
        events = Last({"oom_kill": 3})
        provider = Pressure(Last(MACHINE), Last(), events, DEFAULT, stalls=lambda: [Stalls(0.0, 0.0)])
        levels = []
        for kills in (3, 3, 4, 4):
            events.last = {"oom_kill": kills}
            levels.append(provider.read()["pressure"].level)
        assert levels == ["ok", "ok", "critical", "ok"]

    def test_a_source_that_vanishes_and_returns(self):
        answers = iter([[Stalls(0.5, 0.3)], None, [Stalls(0.5, 0.3)]])

        def stalls():
            if (answer := next(answers)) is None:
                raise UnavailableError("gone")
            return answer

        provider = Pressure(Last(MACHINE), Last(), Last(), DEFAULT, stalls=stalls)
        found = [provider.read()["pressure"] for _ in range(3)]
        assert [(each.level, each.source) for each in found] == [
            ("critical", "PSI some avg10"), ("ok", "available memory"), ("critical", "PSI some avg10")
        ]  # fmt: skip


class TestMac:
    @pytest.mark.parametrize(("value", "level"), [(1, "ok"), (2, "warning"), (4, "critical")])
    def test_levels_of_the_kernel(self, value, level):
        asked = []

        def read(name):
            asked.append(name)
            return value

        found = pressure_of(kernel=lambda: macos_level(read))
        assert (found.level, found.source, found.stalled) == (level, "macOS memory pressure level", None)
        assert bool(found.reason) == (level != "ok")
        assert asked == ["kern.memorystatus_vm_pressure_level"]

    def test_low_available_memory_is_the_kernels_business(self):
        """macOS counts memory that it can compress as used."""
        low = {"memory_total": 16_000, "reclaimable": 100}
        assert pressure_of(memory=low, kernel=lambda: "ok").level == "ok"

    def test_level_that_no_header_names(self):
        found = reason(lambda: macos_level(lambda name: 3))
        assert found == "macOS gives an unknown memory pressure level, 3"

    @pytest.mark.skipif(sys.platform != "darwin", reason="asks macOS itself")
    def test_this_mac(self):
        assert macos_level() in ("ok", "warning", "critical")
        assert sysctl.text("machdep.cpu.brand_string")

    @pytest.mark.skipif(sys.platform != "linux", reason="Linux's C library has no sysctlbyname")
    def test_other_systems_have_no_sysctl(self):
        assert reason(macos_level) == "only macOS has sysctl values by name"
        with pytest.raises(UnavailableError):
            sysctl.text("machdep.cpu.brand_string")

    def test_the_system_decides_which_source_is_read(self):
        here = system_pressure(Last(), Last(), Last(), NoGroup(), DEFAULT, "darwin")
        assert (here._kernel, here._stalls) == (macos_level, None)
        other = system_pressure(Last(), Last(), Last(), NoGroup(), DEFAULT, "linux")
        assert other._kernel is None
        assert other._stalls is not None


class TestThresholds:
    def test_the_defaults_are_usable(self):
        assert not DEFAULT.mistake()

    def test_they_move_the_level(self):
        low = MemoryThresholds(warning_stall=0.01, critical_stall=0.02)
        assert pressure_of(stalls=lambda: [Stalls(0.02, 0.0)], thresholds=low).level == "critical"
        assert pressure_of(stalls=lambda: [Stalls(0.02, 0.0)]).level == "ok"

    @pytest.mark.parametrize(
        ("changes", "mistake"),
        [
            ({"warning_stall": 10.0}, "warning_stall is 10, outside 0 to 1"),
            ({"critical_full": -0.1}, "critical_full is -0.1, outside 0 to 1"),
            ({"warning_stall": 0.5}, "warning_stall is 0.5, above critical_stall, 0.4"),
            ({"critical_available": 0.2}, "critical_available is 0.2, above warning_available, 0.1"),
            ({"warning_available": float("nan")}, "warning_available is nan, outside 0 to 1"),
            ({"warning_swap_in": 0.0}, "warning_swap_in is 0, not a number of bytes per second above 0"),
        ],
    )
    def test_a_value_that_cannot_be_used_is_named(self, changes, mistake):
        assert MemoryThresholds(**changes).mistake() == mistake
