"""One thread that does everything asked of it, in the order in which it was asked."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable

Task = Callable[[], None]

LONGEST_WAIT = 0.1
"""Seconds between two looks at the time when nothing is asked."""


class Mailbox:
    """Runs tasks one after the other on a thread of its own, so that what they share needs no locks."""

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[Task] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    @property
    def started(self) -> bool:
        """Whether there is a thread, or was."""
        return self._thread is not None

    def start(self, tick: Callable[[], bool], failed: Callable[[Exception], None]) -> None:
        """Begin with what was posted already.

        Args:
            tick: called after each task, and every now and then between tasks; True ends the thread.
            failed: called with an exception that a task raised; the thread goes on.
        """
        self._thread = threading.Thread(target=self._run, args=(tick, failed), name="run", daemon=True)
        self._thread.start()

    def post(self, task: Task) -> None:
        """Have this done, after all that was posted before. Returns at once; from any thread."""
        self._tasks.put(task)

    def join(self) -> None:
        """Wait until the thread has ended."""
        if self._thread is not None:
            self._thread.join()

    def _run(self, tick: Callable[[], bool], failed: Callable[[Exception], None]) -> None:
        ended = False
        while not ended:
            try:
                self._take()()
                ended = tick()
            except Exception as error:  # a silent end of this thread would look like a model that thinks for ever
                with contextlib.suppress(Exception):  # there may be no memory to say it with
                    failed(error)

    def _take(self) -> Task:
        try:
            return self._tasks.get(timeout=LONGEST_WAIT)
        except queue.Empty:
            return _nothing


def _nothing() -> None:
    pass
