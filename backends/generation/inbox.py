"""Queue of commands from the parent."""

from __future__ import annotations

import os
import queue
import threading
from multiprocessing.connection import Connection
from typing import Protocol

from moe_watch.backends.protocol import Command, Shutdown, decode_command


class Inbox(Protocol):
    """Queue of commands for a run."""

    def pop(self, timeout: float | None) -> Command | None:
        """Remove and return the next command; waits up to `timeout` seconds, with None forever. None if empty."""


class PipeInbox:
    """Reader of commands from a pipe, on a separate thread.

    On `Shutdown`, and when the parent has died, the thread ends this process at once and does not wait for
    the main thread: a library call for loading or evaluation may take minutes. No cleanup is needed here.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        threading.Thread(target=self._read, name="inbox", daemon=True).start()

    def _read(self) -> None:
        try:
            while not isinstance(command := decode_command(self._connection.recv_bytes()), Shutdown):
                self._commands.put(command)
        except (EOFError, OSError):
            pass
        os._exit(0)

    def pop(self, timeout: float | None) -> Command | None:
        try:
            return self._commands.get(block=timeout != 0, timeout=timeout)
        except queue.Empty:
            return None
