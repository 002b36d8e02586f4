"""Memory that is available: the limit that binds."""

from __future__ import annotations

import resource
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest

from moe_watch.backends.memory import available
from moe_watch.backends.memory.available import available_memory
from moe_watch.backends.system.python_process import environment
from moe_watch.vitals.cgroup import GroupMemory


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=1000, available=600))
    monkeypatch.setattr(available.resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def test_the_machine_binds_without_any_limit():
    found = available_memory(lambda total: None)
    assert (found.bytes, found.total, found.limit) == (600, 1000, "machine")
    assert not found.counts_mapped_files


def test_a_container_binds_if_less_of_it_is_left():
    found = available_memory(lambda total: GroupMemory(limit=total // 2, used=100))
    assert (found.bytes, found.total, found.limit) == (400, 500, "container")


def test_the_machine_binds_if_its_memory_is_shorter_than_the_containers():
    assert available_memory(lambda total: GroupMemory(limit=900, used=100)).limit == "machine"


def test_a_container_that_is_over_its_limit_has_nothing_left():
    assert available_memory(lambda total: GroupMemory(limit=500, used=501)).bytes == 0


def test_the_limit_on_address_space_counts_mapped_files(monkeypatch):
    monkeypatch.setattr(available.resource, "getrlimit", lambda _: (300, 300))
    found = available_memory(lambda total: None)
    assert (found.bytes, found.limit, found.counts_mapped_files) == (300, "ulimit -v", True)


def test_a_real_limit_on_address_space_is_found():
    script = (
        "from moe_watch.backends.memory.available import available_memory\n"
        "found = available_memory(lambda total: None)\n"
        "print(found.bytes, found.limit)"
    )
    size = 700_000_000
    run = subprocess.run(
        ["sh", "-c", f'ulimit -v {size // 1000} && exec "$0" -c "$1"', sys.executable, script],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split(maxsplit=1) == [str(size // 1000 * 1024), "ulimit -v\n"]
