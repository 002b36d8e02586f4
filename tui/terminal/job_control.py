"""Signals, and suspension by the shell's job control. Reasons: docs/adr/0021."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress

from textual.driver import Driver

LEAVING_SIGNALS = ("SIGTERM", "SIGHUP")
"""Signals that end the program; not every system has all of them."""


def leave_on_signals(leave: Callable[[], None]) -> None:
    """Call `leave` on a signal that ends the program, so that the terminal is restored and the recording closed."""
    loop = asyncio.get_running_loop()
    for name in LEAVING_SIGNALS:
        with suppress(AttributeError, NotImplementedError, RuntimeError):  # no such signal or handler
            loop.add_signal_handler(getattr(signal, name), leave)


def suspend(driver: Driver | None) -> str:
    """Stop the program's process group, which includes a parent such as `make`, until the shell continues it.

    Returns:
        The reason why the program cannot be suspended; empty if it was.
    """
    if driver is None or driver.is_headless or driver.is_web or not driver.can_suspend:
        return "not in this terminal"
    if os.getpgrp() == os.getsid(0):
        return "not started from a shell that could continue it"
    os.killpg(0, signal.SIGTSTP)
    return ""
