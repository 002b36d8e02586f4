"""Limits of control groups: which one counts, and which can be none."""

from __future__ import annotations

import pytest

from moe_watch.vitals.cgroup import GroupMemory, LimitedGroup, group_memory

MACHINE = 64_000_000
UNLIMITED = {"2": "max", "1": str(2**63 - 4096)}
FILES = {
    "2": ("memory.max", "memory.current", "inactive_file"),
    "1": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
OTHER = {"2": "", "1": "5:cpu,cpuacct:/a/b\n"}
LINE = {"2": "0::{}\n", "1": "4:memory:{}\n"}


@pytest.fixture(params=["1", "2"])
def version(request):
    return request.param


@pytest.fixture
def groups(tmp_path, version):
    """Control groups as a kernel shows them; returns the memory of the process's own."""
    mounted = tmp_path / "cgroup"
    root = mounted / "memory" if version == "1" else mounted
    limit_name, used_name, inactive_name = FILES[version]

    def group(path, limit, used="3000000", inactive="500000"):
        folder = root / path.lstrip("/")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / limit_name).write_text(f"{limit}\n")
        (folder / used_name).write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 7\n{inactive_name} {inactive}\nslab 1\n")

    def memory(path):
        membership = tmp_path / "membership"
        membership.write_text(OTHER[version] + LINE[version].format(path))
        return group_memory(MACHINE, mounted, membership)

    group.memory = memory
    return group


def test_a_limit_with_what_is_used_of_it(groups):
    groups("/a/b", 8_000_000)
    assert groups.memory("/a/b") == GroupMemory(limit=8_000_000, used=2_500_000)


def test_the_tightest_limit_above_counts(groups, version):
    groups("/a", 4_000_000)
    groups("/a/b", UNLIMITED[version])
    groups("/a/b/c", 8_000_000)
    assert groups.memory("/a/b/c").limit == 4_000_000


def test_a_container_sees_its_own_group_as_the_root(groups):
    groups("/", 8_000_000)
    assert groups.memory("/docker/0123abcd").limit == 8_000_000
    assert groups.memory("/../../other").limit == 8_000_000


@pytest.mark.parametrize("limit", ["0", "-1", str(MACHINE), str(2**64 - 1), "", "8 MB"])
def test_a_limit_that_can_be_none_is_none(groups, limit):
    groups("/a", limit)
    assert groups.memory("/a") is None


def test_no_limit(groups, version):
    groups("/a", UNLIMITED[version])
    assert groups.memory("/a") is None
    assert groups.memory("/nowhere") is None


@pytest.mark.parametrize(("used", "inactive"), [("9000000", "0"), ("-9", "x"), ("", "0")])
def test_use_that_cannot_be_makes_no_reading(groups, used, inactive):
    groups("/a", 8_000_000, used, inactive)
    assert groups.memory("/a") is None


@pytest.mark.parametrize("content", [None, "", "\n", "garbage\n", "0:\n", "::::\n"])
def test_a_system_without_control_groups(tmp_path, content):
    membership = tmp_path / "membership"
    if content is not None:
        membership.write_text(content)
    assert group_memory(MACHINE, tmp_path, membership) is None


# Files of a group of version 1 (Linux 6.18), and of version 2 as Documentation/admin-guide/cgroup-v2.rst has them.
OOM_CONTROL = "oom_kill_disable 0\nunder_oom 1\noom_kill 2\n"
EVENTS = "low 0\nhigh 12\nmax 345\noom 3\noom_kill 2\noom_group_kill 0\n"


def group_of(groups, tmp_path, version):
    groups("/a", 8_000_000)
    folder = (tmp_path / "cgroup" / "memory" if version == "1" else tmp_path / "cgroup") / "a"
    (tmp_path / "membership").write_text(LINE[version].format("/a"))
    return folder, LimitedGroup(tmp_path / "cgroup", tmp_path / "membership")


def test_counters_of_the_tightest_group(groups, tmp_path, version):
    folder, group = group_of(groups, tmp_path, version)
    assert group.events() is None  # its limit is not known before its memory was read
    assert group.memory(MACHINE) is not None
    assert group.events() == {}
    if version == "1":
        (folder / "memory.oom_control").write_text(OOM_CONTROL)
        (folder / "memory.failcnt").write_text("8921781\n")
        assert group.events() == {"oom_kill": 2, "failcnt": 8_921_781}
        assert group.pressure_file is None
    else:
        (folder / "memory.events").write_text(EVENTS)
        assert group.events() == {"low": 0, "high": 12, "max": 345, "oom": 3, "oom_kill": 2, "oom_group_kill": 0}
        assert group.pressure_file == folder / "memory.pressure"


def test_a_group_whose_limit_is_lifted_counts_no_more(groups, tmp_path, version):
    folder, group = group_of(groups, tmp_path, version)
    assert group.memory(MACHINE) is not None
    (folder / FILES[version][0]).write_text(UNLIMITED[version])
    assert group.memory(MACHINE) is None
    assert (group.events(), group.pressure_file) == (None, None)


def test_file_pages_in_use_are_told_apart(groups, tmp_path, version):
    """A mapped model fills a group with file pages, which the kernel reclaims before it kills."""
    folder, group = group_of(groups, tmp_path, version)
    names = ("total_inactive_file", "total_active_file") if version == "1" else ("inactive_file", "active_file")
    (folder / "memory.stat").write_text(f"{names[0]} 500000\n{names[1]} 2000000\n")
    assert group.memory(MACHINE) == GroupMemory(limit=8_000_000, used=2_500_000, active_file=2_000_000)
