"""Thread that executes tasks in order."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable

Task = Callable[[], None]

LONGEST_WAIT = 0.1
"""Maximum seconds between two ticks without a task."""


class Mailbox:
    """Queue of tasks for one thread, so that their shared state needs no locks."""

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[Task] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    @property
    def started(self) -> bool:
        """The thread was started."""
        return self._thread is not None

    def start(self, tick: Callable[[], bool], failed: Callable[[Exception], None]) -> None:
        """Start the thread; it begins with the tasks posted so far.

        Args:
            tick: called after each task, and at least every `LONGEST_WAIT`; True ends the thread.
            failed: called with an exception that a task raised; the thread continues.
        """
        self._thread = threading.Thread(target=self._run, args=(tick, failed), name="run", daemon=True)
        self._thread.start()

    def post(self, task: Task) -> None:
        """Queue a task and return at once. Safe from any thread."""
        self._tasks.put(task)

    def join(self) -> None:
        """Wait for the end of the thread."""
        if self._thread is not None:
            self._thread.join()

    def _run(self, tick: Callable[[], bool], failed: Callable[[Exception], None]) -> None:
        ended = False
        while not ended:
            try:
                self._take()()
                ended = tick()
            except Exception as error:  # if this thread ended silently, the model would seem to compute forever
                with contextlib.suppress(Exception):  # there may be no memory for the message
                    failed(error)

    def _take(self) -> Task:
        try:
            return self._tasks.get(timeout=LONGEST_WAIT)
        except queue.Empty:
            return _nothing


def _nothing() -> None:
    pass
