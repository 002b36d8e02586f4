"""Temperatures and clocks of Apple silicon from `macmon pipe`, which needs no root; https://github.com/vladkens/macmon.

One child process writes a line of JSON per half second. It is started at the first reading and ended with this process.
"""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import IO

import msgspec

from moe_watch.routing.events import Clock
from moe_watch.vitals.heat.hwmon import SensorReading
from moe_watch.vitals.provider import UnavailableError

NOT_INSTALLED = "macOS shows temperatures to root only; macmon reads them without: brew install macmon"
NOT_YET = "macmon has not reported yet"
LONGEST_LINE = 1 << 16
"""Bytes. A line of a 24-core machine has 3,000."""
STALE_SECONDS = 5.0
"""Age from which a report is no reading."""
MOST_STARTS = 3
STARTS_APART = 30.0
"""Seconds between two starts."""


class _Averages(msgspec.Struct, frozen=True):
    """Table `temp`, in °C. A sensor that macmon cannot read is 0."""

    cpu_temp_avg: float = 0.0
    gpu_temp_avg: float = 0.0


class _Chip(msgspec.Struct, frozen=True):
    """Table `soc`, with the option `--soc-info`: frequencies in MHz."""

    pcpu_freqs: list[float] = []
    gpu_freqs: list[float] = []


class _Report(msgspec.Struct, frozen=True):
    """One line. `pcpu_usage` and `gpu_usage` are MHz and share, in all versions so far."""

    temp: _Averages = _Averages()
    pcpu_usage: tuple[float, float] | None = None
    gpu_usage: tuple[float, float] | None = None
    soc: _Chip = _Chip()


class Macmon:
    """Reader of the newest report of a macmon process.

    Args:
        command: command line; None if macmon is not installed.
        clock: monotonic seconds.
    """

    def __init__(self, command: Sequence[str] | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._command = command
        self._clock = clock
        self._starts = 0
        self._started = float("-inf")
        self._process: subprocess.Popen[bytes] | None = None
        self._newest: tuple[float, _Report] | None = None
        self._problem = ""
        """Reason of the last line that is no report."""

    def temperatures(self) -> Mapping[str, Sequence[SensorReading]]:
        """Return the mean temperatures of CPU and GPU.

        Raises:
            UnavailableError: there is no recent report.
        """
        temp = self._report().temp
        return {"Apple": [SensorReading("CPU mean", temp.cpu_temp_avg), SensorReading("GPU mean", temp.gpu_temp_avg)]}

    def clocks(self) -> list[Clock]:
        """Return the clocks of the performance cores and of the GPU.

        Raises:
            UnavailableError: there is no recent report.
        """
        report = self._report()
        found = []
        if report.pcpu_usage is not None:
            highest = max(report.soc.pcpu_freqs, default=None)
            found.append(Clock(device="CPU", kind="cpu", mhz=report.pcpu_usage[0], max=highest))
        if report.gpu_usage is not None:
            highest = max(report.soc.gpu_freqs, default=None)
            found.append(Clock(device="GPU", kind="gpu", mhz=report.gpu_usage[0], max=highest))
        return found

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            _end(self._process)

    def _report(self) -> _Report:
        if self._command is None:
            raise UnavailableError(NOT_INSTALLED)
        self._keep_running(self._command)
        newest = self._newest
        if newest is None or self._clock() - newest[0] > STALE_SECONDS:
            raise UnavailableError(f"macmon: {self._problem}" if self._problem else NOT_YET)
        return newest[1]

    def _keep_running(self, command: Sequence[str]) -> None:
        """Start the process if it is not running, at most `MOST_STARTS` times."""
        if self._process is not None and self._process.poll() is None:
            return
        if self._process is not None and not self._problem:
            self._problem = f"it ended with status {self._process.returncode}"
        now = self._clock()
        if self._starts >= MOST_STARTS or now - self._started < STARTS_APART:
            return
        self._starts, self._started = self._starts + 1, now
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        except OSError as error:
            self._problem = f"it cannot be started: {error.strerror}"
            return
        self._process = process
        weakref.finalize(self, _end, process)
        if process.stdout is not None:
            reader = threading.Thread(target=_follow, args=(process.stdout, weakref.ref(self)), daemon=True)
            reader.start()

    def _take(self, line: bytes) -> None:
        try:
            self._newest = self._clock(), msgspec.json.decode(line, type=_Report)
            self._problem = ""
        except msgspec.DecodeError as error:
            self._problem = f"its output is not understood: {error}"


def _follow(output: IO[bytes], reader: weakref.ref[Macmon]) -> None:
    """Pass on each line until the end of the output, or until the reader is gone."""
    with output:
        while line := output.readline(LONGEST_LINE):
            owner = reader()
            if owner is None:
                return
            owner._take(line)
            del owner


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
        process.wait()


@cache
def shared_macmon() -> Macmon:
    """Return the one reader of this process, so that successive runs share the child."""
    path = shutil.which("macmon")
    return Macmon(None if path is None else [path, "pipe", "--interval", "500", "--soc-info"])
