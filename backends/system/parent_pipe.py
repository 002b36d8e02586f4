"""A pipe by which a worker's end follows that of its parent, whatever the worker is doing.

The parent holds the writing end and never writes. Where it ends, however it ends, the system closes the pipe.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import sys


def hold(lifeline: int) -> None:
    """Have this process killed when the writing end of `lifeline` is closed.

    The inbox's thread sees the end of the pipe of commands as well, but only while the interpreter runs: a library may
    keep it from running for minutes. Linux sends a signal without it; elsewhere that thread has to do.
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError):  # sandboxes that imitate Linux may lack it
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    if _is_closed(lifeline):
        os._exit(0)


def _is_closed(lifeline: int) -> bool:
    poll = select.poll()
    poll.register(lifeline, select.POLLHUP)
    return bool(poll.poll(0))
