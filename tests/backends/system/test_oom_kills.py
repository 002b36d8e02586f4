"""Evidence of the OOM killer from counters of the kernel.

The texts are the whole `memory.oom_control` of a Linux 6.18 (version 1), and the whole `memory.events` of the kernel's
documentation of version 2 with its keys in the kernel's order.
"""

from __future__ import annotations

import pathlib

import pytest

from moe_watch.backends.system.oom_kills import OomKills, oom_kills
from moe_watch.backends.worker.process import exit_cause

VERSION_1 = "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"
VERSION_2 = "low 0\nhigh 0\nmax 41\noom 3\noom_kill {}\noom_group_kill 0\n"
VMSTAT = "nr_free_pages 5815312\noom_kill {}\nnuma_hint_faults 7\n"


def counted(root: pathlib.Path, version: str, path: str, kills: int, limit: str) -> None:
    folder = (root / "memory" if version == "1" else root) / path
    folder.mkdir(parents=True, exist_ok=True)
    counter, limits = (
        ("memory.oom_control", "memory.limit_in_bytes") if version == "1" else ("memory.events", "memory.max")
    )
    (folder / counter).write_text((VERSION_1 if version == "1" else VERSION_2).format(kills))
    (folder / limits).write_text(f"{limit}\n")


def read(root: pathlib.Path, version: str, path: str, machine: int | None = None) -> OomKills:
    membership, vmstat = root / "membership", root / "vmstat"
    membership.write_text(f"4:memory:/{path}\n1:cpu:/\n" if version == "1" else f"0::/{path}\n")
    if machine is not None:
        vmstat.write_text(VMSTAT.format(machine))
    return oom_kills(root, membership, vmstat)


@pytest.mark.parametrize("version", ["1", "2"])
def test_the_counter_of_the_own_group(tmp_path: pathlib.Path, version: str) -> None:
    counted(tmp_path, version, "a/b", 0, "150000000")
    before = read(tmp_path, version, "a/b", machine=2)
    assert before == OomKills(0, 2, 150_000_000)
    counted(tmp_path, version, "a/b", 1, "150000000")
    evidence = read(tmp_path, version, "a/b", machine=3).since(before)
    assert evidence == (
        "by the OOM killer (kills in its control group, whose memory limit is 150 MB: 1, 0 at its start)"
    )


@pytest.mark.parametrize("version", ["1", "2"])
def test_in_a_container_the_group_is_the_root(tmp_path: pathlib.Path, version: str) -> None:
    counted(tmp_path, version, "", 5, "max" if version == "2" else str(2**63 - 4096))
    assert read(tmp_path, version, "docker/0123") == OomKills(5, None, None)


def test_a_kill_elsewhere_on_the_machine_is_a_guess(tmp_path: pathlib.Path) -> None:
    counted(tmp_path, "2", "a", 0, "max")
    before = read(tmp_path, "2", "a", machine=7)
    after = read(tmp_path, "2", "a", machine=8)
    assert after.since(before) == "probably by the OOM killer (kills on this machine: 8, 7 at its start)"


def test_no_kill_is_no_evidence(tmp_path: pathlib.Path) -> None:
    counted(tmp_path, "2", "a", 4, "max")
    before = read(tmp_path, "2", "a", machine=7)
    assert before.since(before) == ""
    nothing = oom_kills(tmp_path / "none", tmp_path / "none", tmp_path / "none")
    assert nothing == OomKills(None, None, None)
    assert before.since(nothing) == nothing.since(before) == ""


def test_a_path_upwards_is_not_followed(tmp_path: pathlib.Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "memory.events").write_text(VERSION_2.format(9))
    assert read(tmp_path / "root", "2", "../") == OomKills(None, None, None)


def test_the_evidence_is_in_the_message() -> None:
    message = exit_cause(-9, "", "by the OOM killer (kills in its control group: 1, 0 at its start)")
    assert message.startswith(
        "was killed by the OOM killer (kills in its control group: 1, 0 at its start): free memory"
    )
    assert "`moe-watch memory MODEL`" in message
    assert exit_cause(-9, "").startswith("was killed by the system (SIGKILL): out of memory?")
