"""Waiting for what other processes and threads do, and finding the one that runs a model."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import psutil

LONG = 120.0
"""Seconds after which a wait is a failure; on an idle machine nothing takes nearly as long."""


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Poll until something is true.

    Raises:
        AssertionError: it did not come true in time; names what.
    """
    limit = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < limit, f"never came: {what}"
        time.sleep(0.002)


def is_gone(pid: int) -> bool:
    """Return True if a process does nothing any more, even if no process has asked for its exit status yet."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def worker_of(pid: int) -> psutil.Process:
    """The only process below this one that runs a model."""
    (worker,) = filter(_runs_a_model, psutil.Process(pid).children(recursive=True))
    return worker


def _runs_a_model(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):  # it left meanwhile
        return "moe_watch.backends.worker.main" in process.cmdline()
    return False
