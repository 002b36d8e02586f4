"""Connection of a live run to its present worker."""

from __future__ import annotations

from collections.abc import Callable

from moe_watch.backends.protocol import Command, Load, Message
from moe_watch.sessions.live.environment import Worker, WorkerFactory


class WorkerLink:
    """The present worker, and facts about it that outlive it.

    Args:
        start: starts a worker.
        receive: called with each message, in order, on any thread.
    """

    def __init__(self, start: WorkerFactory, receive: Callable[[Message], None]) -> None:
        self.warnings: list[str] = []
        """Warnings about the model that was loaded last."""
        self.log: list[str] = []
        """Last lines of the log of a worker that failed."""
        self._start = start
        self._receive = receive
        self._worker: Worker | None = None

    def pid(self) -> int | None:
        """Return the process id of the worker, or None before there is one."""
        return None if self._worker is None else self._worker.pid

    def load(self, command: Load) -> None:
        """Start a worker and load a model."""
        self._worker = self._start(self._receive)
        self._worker.send(command)

    def send(self, command: Command) -> None:
        """Send a command to the worker, if there is one."""
        if self._worker is not None:
            self._worker.send(command)

    def close(self) -> None:
        """Close the worker, if there is one."""
        if self._worker is not None:
            self._worker.close()
