"""Counters of the worker's disk reads and faults, and of swap: samples of real files, and real reads."""

from __future__ import annotations

import os
import struct
import sys
from types import SimpleNamespace

import pytest

from moe_watch.vitals.memory import GroupEvents, Swap
from moe_watch.vitals.provider import UnavailableError
from moe_watch.vitals.sampler import VitalsSampler
from moe_watch.vitals.swap_traffic import (
    VM_STATISTICS64,
    linux_traffic,
    macos_traffic,
    swapped,
    system_traffic,
)
from moe_watch.vitals.worker_disk import DENIED, ENDED, WorkerDisk, bytes_read, from_rusage, major_faults

# /proc/PID/io of a process that reads a mapped model from disk, Linux 6.18.
IO = """\
rchar: 11923480
wchar: 140310
syscr: 2214
syscw: 303
read_bytes: 38785363968
write_bytes: 122880
cancelled_write_bytes: 0
"""
# /proc/PID/stat of Linux 6.18, with a name as Documentation/filesystems/proc.rst allows it.
STAT = (
    "31777 (a) R 1 (b) S 31749 31749 17265 0 -1 4194304 102 7 2828 9 0 0 0 0 20 0 1 0 2934644 3133440 414 "
    "18446744073709551615 94679339806720 94679339826601 140726402535040 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0\n"
)
# /proc/vmstat of Linux 6.18, shortened; a machine with swap.
VMSTAT = "nr_free_pages 3835904\npgpgin 93018121\npswpin 2310\npswpout 81920\npgfault 1234\npgmajfault 52046\n"


def reason(call):
    with pytest.raises(UnavailableError) as caught:
        call()
    return str(caught.value)


@pytest.fixture
def process(tmp_path):
    folder = tmp_path / "31777"
    folder.mkdir()
    (folder / "io").write_text(IO)
    (folder / "stat").write_text(STAT)
    return folder


def disk_of(process):
    return WorkerDisk(lambda: int(process.name), "linux", process.parent)


class TestLinux:
    def test_samples(self):
        assert bytes_read(IO) == 38_785_363_968
        assert major_faults(STAT) == 2828

    def test_both_counters(self, process):
        assert disk_of(process).read() == {"worker_read": 38_785_363_968, "worker_faults": 2828, "unavailable": {}}

    def test_a_kernel_without_io_accounting_leaves_the_faults(self, process):
        (process / "io").unlink()
        read = disk_of(process).read()
        assert read["worker_faults"] == 2828
        assert read["unavailable"] == {"worker_read": "the kernel has no /proc/PID/io"}

    def test_files_of_another_form(self, process):
        (process / "io").write_text("rchar: 1\n")
        (process / "stat").write_text("31777 (x) R 1\n")
        found = disk_of(process).read()["unavailable"]
        assert found.keys() == {"worker_read", "worker_faults"}
        assert all("another form" in why for why in found.values())

    def test_a_process_that_ends_during_the_run(self, process):
        disk = disk_of(process)
        assert disk.read()["worker_read"]
        for file in process.iterdir():
            file.unlink()
        process.rmdir()
        assert disk.read() == {"unavailable": {"worker_read": ENDED, "worker_faults": ENDED}}

    @pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="needs Linux, and root to become another")
    def test_the_process_of_another_user_is_denied(self):
        answer, told = os.pipe()
        if (child := os.fork()) == 0:
            os.setuid(65534)
            os.write(told, WorkerDisk(lambda: 1, "linux").read()["unavailable"]["worker_read"].encode())
            os._exit(0)
        os.waitpid(child, 0)
        os.close(told)
        with os.fdopen(answer) as found:
            assert found.read() == DENIED

    @pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
    def test_this_process_reads_what_is_not_cached(self, tmp_path):
        disk = WorkerDisk(os.getpid)
        path = tmp_path / "data"
        path.write_bytes(os.urandom(4_000_000))
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            before = disk.read()
            assert os.pread(descriptor, 4_000_000, 0)
            cached = disk.read()
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            assert os.pread(descriptor, 4_000_000, 0)
            fetched = disk.read()
        finally:
            os.close(descriptor)
        if "worker_read" not in before:
            pytest.skip(before["unavailable"]["worker_read"])
        assert cached["worker_read"] == before["worker_read"]  # from the page cache
        if fetched["worker_read"] == cached["worker_read"]:
            pytest.skip("the temporary folder is in memory")
        assert fetched["worker_read"] - cached["worker_read"] >= 4_000_000

    def test_no_process(self):
        assert reason(WorkerDisk(lambda: None, "linux").read) == "the process is not running"


class TestMac:
    def test_bytes_of_the_struct(self):
        """`struct rusage_info_v2` of <sys/resource.h>, built field by field."""
        fields = dict.fromkeys(
            ["user_time", "system_time", "pkg_idle_wkups", "interrupt_wkups", "pageins", "wired_size", "resident_size",
             "phys_footprint", "proc_start_abstime", "proc_exit_abstime", "child_user_time", "child_system_time",
             "child_pkg_idle_wkups", "child_interrupt_wkups", "child_pageins", "child_elapsed_abstime",
             "diskio_bytesread", "diskio_byteswritten"], 7,
        )  # fmt: skip
        fields |= {"pageins": 411, "diskio_bytesread": 9_000_000_001}
        usage = struct.pack("=16s18Q", b"uuid", *fields.values())
        assert len(usage) == 160
        assert from_rusage(usage) == (9_000_000_001, 411)

    def test_swap_counters_of_the_struct(self):
        """`struct vm_statistics64` of <mach/vm_statistics.h>, built field by field."""
        values = {"free": 1, "active": 2, "inactive": 3, "wire": 4}
        values |= dict.fromkeys(
            ["zero_fill", "reactivations", "pageins", "pageouts", "faults", "cow", "lookups", "hits", "purges"], 9
        )
        values |= {"purgeable": 5, "speculative": 6, "decompressions": 7, "compressions": 8, "swapins": 30}
        values |= {"swapouts": 40, "compressor": 1, "throttled": 1, "external": 1, "internal": 1, "uncompressed": 1}
        raw = VM_STATISTICS64.pack(*values.values())
        assert len(raw) == 152  # HOST_VM_INFO64_REV1_COUNT is 38 words
        assert swapped(raw, 16_384) == (30 * 16_384, 40 * 16_384)

    @pytest.mark.skipif(sys.platform != "darwin", reason="asks macOS itself")
    def test_this_mac(self):
        assert WorkerDisk(os.getpid).read()["worker_read"] >= 0
        assert min(macos_traffic()) >= 0

    @pytest.mark.skipif(sys.platform == "darwin", reason="macOS has these functions")
    def test_other_systems_say_so(self):
        assert reason(WorkerDisk(os.getpid, "darwin").read) == "only macOS has proc_pid_rusage"
        assert reason(macos_traffic) == "only macOS has host_statistics64"
        assert "no source" in reason(WorkerDisk(os.getpid, "win32").read)


class TestSwapTraffic:
    @pytest.mark.parametrize("page", [4096, 16_384, 65_536])
    def test_pages_have_the_size_of_this_kernel(self, tmp_path, page):
        path = tmp_path / "vmstat"
        path.write_text(VMSTAT)
        assert linux_traffic(path, page) == (2310 * page, 81_920 * page)

    def test_a_kernel_without_the_counters(self, tmp_path):
        path = tmp_path / "vmstat"
        assert reason(lambda: linux_traffic(path)) == f"{path} cannot be read"
        path.write_text("nr_free_pages 1\n")
        assert reason(lambda: linux_traffic(path)) == f"{path} has no counters of swapped pages"

    @pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/vmstat")
    def test_this_machine(self):
        first = linux_traffic()
        assert all(later >= before >= 0 for before, later in zip(first, system_traffic()(), strict=True))

    def test_without_counters_the_sizes_stay(self):
        def none():
            raise UnavailableError("no counters")

        swap = Swap(lambda: SimpleNamespace(total=10, used=1), none)
        vitals = VitalsSampler(lambda: 0.0, lambda: None, [swap]).read()
        assert (vitals.swap_total, vitals.swap_used, vitals.swapped_in) == (10, 1, None)
        assert vitals.unavailable == dict.fromkeys(("swapped_in", "swapped_out"), "no counters")


class TestGroupEvents:
    def test_counters_and_reasons(self):
        assert GroupEvents(lambda: {"oom_kill": 2}).read() == {"group_events": {"oom_kill": 2}}
        assert "no control group" in reason(GroupEvents(lambda: None).read)
        assert "no counters" in reason(GroupEvents(dict).read)
