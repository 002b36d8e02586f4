from __future__ import annotations

import psutil

from moe_watch.sessions.live.host import host, processor

CPUINFO = """\
processor\t: 0
vendor_id\t: AuthenticAMD
model name\t: AMD EPYC 9B14: 96-Core
processor\t: 1
model name\t: another
"""


def test_this_machine():
    machine = host()
    assert machine.memory == psutil.virtual_memory().total
    assert machine.cores >= 1
    assert machine.system.split()[0] in ("Linux", "Darwin", "Windows")


def test_processor_by_its_makers_name(tmp_path):
    (tmp_path / "cpuinfo").write_text(CPUINFO)
    assert processor("linux", tmp_path / "cpuinfo") == "AMD EPYC 9B14: 96-Core"


def test_processor_that_the_system_does_not_name(tmp_path):
    (tmp_path / "cpuinfo").write_text("processor\t: 0\n")
    assert processor("linux", tmp_path / "cpuinfo") is None
    assert processor("linux", tmp_path / "none") is None
