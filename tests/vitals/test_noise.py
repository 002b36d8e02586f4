"""Processor time of other processes during a timing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from moe_watch.vitals.noise import CpuTimes, NoiseMeter, cpu_times


def metered(*readings, load=lambda: (1.5, 9.0, 9.0)):
    times = iter(readings)
    return NoiseMeter(lambda: next(times), load).noise()


def test_shares_are_those_between_the_two_readings():
    noise = metered(
        CpuTimes(total=1000.0, busy=500.0, steal=10.0, own=30.0),
        CpuTimes(total=1100.0, busy=570.0, steal=15.0, own=80.0),
    )
    assert (noise.others, noise.steal, noise.load) == (pytest.approx(0.2), pytest.approx(0.05), 1.5)
    assert noise.unavailable == {}


def test_own_time_that_is_counted_sooner_than_the_systems_is_no_negative_share():
    noise = metered(
        CpuTimes(total=0.0, busy=0.0, steal=0.0, own=0.0), CpuTimes(total=10.0, busy=4.9, steal=0.0, own=5.0)
    )
    assert noise.others == 0.0


def test_what_cannot_be_read_is_absent_with_its_reason():
    def no_load():
        raise OSError

    same = CpuTimes(total=5.0, busy=1.0, steal=None, own=0.0)
    noise = metered(same, same, load=no_load)
    assert (noise.load, noise.others, noise.steal) == (None, None, None)
    assert set(noise.unavailable) == {"load", "others", "steal"}
    later = CpuTimes(total=6.0, busy=1.5, steal=None, own=0.0)
    assert (metered(same, later).others, metered(same, later).steal) == (0.5, None)
    assert set(metered(same, later).unavailable) == {"steal"}


def test_a_process_that_was_started_is_no_other():
    """Its time is our own: while it runs, and after it has ended. The kernel counts in ticks of 10 ms."""
    before = cpu_times()
    code = "import time\nwhile time.process_time() < 0.3: pass\nprint(1, flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        running = cpu_times()
        child.communicate(b"\n")
    ended = cpu_times()
    assert running.own - before.own >= 0.25
    if sys.platform == "linux":
        assert ended.own - before.own >= 0.25
    assert running.total > before.total
