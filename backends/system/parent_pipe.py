"""Pipe that ends a worker when its parent ends, regardless of the worker's state.

The parent holds the writing end and never writes. When the parent ends, for any reason, the system closes the pipe.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import sys


def hold(lifeline: int) -> None:
    """Make the system kill this process when the writing end of `lifeline` is closed.

    The inbox's thread also sees the end of the command pipe, but only while the interpreter runs: a library may block
    it for minutes. Linux sends a signal without the interpreter; other systems rely on that thread.
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError):  # sandboxes that emulate Linux may lack it
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    if _is_closed(lifeline):
        os._exit(0)


def _is_closed(lifeline: int) -> bool:
    poll = select.poll()
    poll.register(lifeline, select.POLLHUP)
    return bool(poll.poll(0))
