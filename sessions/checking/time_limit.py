"""Time limit of one check: a sensor, a disk or an engine that hangs must not hang the program."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence

from moe_watch.routing.errors import UserError
from moe_watch.sessions.checking.results import CheckResult, failure

POLL = 0.1
"""Seconds between checks of whether the user has cancelled."""


class Cancelled(Exception):  # noqa: N818 - not an error
    """The user has left while a check was in progress."""


class Cancellation:
    """Request to end the checks early, from any thread."""

    def __init__(self) -> None:
        self._asked = threading.Event()

    def cancel(self) -> None:
        """End the checks; the one in progress is abandoned."""
        self._asked.set()

    def raise_if_cancelled(self) -> None:
        """End the present check.

        Raises:
            Cancelled: the user has left.
        """
        if self._asked.is_set():
            raise Cancelled


def within(
    name: str, seconds: float, check: Callable[[], Sequence[CheckResult]], cancellation: Cancellation
) -> Sequence[CheckResult]:
    """Return the results of a check that runs on a separate thread.

    A check that raises, or that does not end in time, is a failure with that reason; its thread is abandoned.

    Args:
        name: subject, for the failure.
        seconds: longest time.
        check: makes the check.
        cancellation: ends the wait.

    Raises:
        Cancelled: the user has left.
    """
    done: queue.SimpleQueue[Sequence[CheckResult]] = queue.SimpleQueue()

    def run() -> None:
        done.put(_results_of(name, check))

    threading.Thread(target=run, name=f"check of {name}", daemon=True).start()
    deadline = time.monotonic() + seconds
    while True:
        cancellation.raise_if_cancelled()
        try:
            return done.get(timeout=POLL)
        except queue.Empty:
            if time.monotonic() >= deadline:
                return [failure(name, f"no answer within {seconds:g} s", "a driver or a disk may hang: try again")]


def _results_of(name: str, check: Callable[[], Sequence[CheckResult]]) -> Sequence[CheckResult]:
    try:
        return check()
    except UserError as error:
        return [failure(name, error.what, error.advice)]
    except Exception as error:  # one broken check must not end the others
        reason = next(iter(str(error).splitlines()), "")
        return [failure(name, f"the check itself failed: {type(error).__name__}: {reason}", "report this")]
