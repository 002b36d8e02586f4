"""Commands from the parent, as they arrive."""

from __future__ import annotations

import os
import queue
import threading
from multiprocessing.connection import Connection
from typing import Protocol

from moe_watch.backends.protocol import Command, Shutdown, decode_command


class Inbox(Protocol):
    """Where the run looks for commands."""

    def take(self, timeout: float | None) -> Command | None:
        """The next command; waits `timeout` seconds for it, or for ever with None. None if there is none."""


class PipeInbox:
    """Reads commands from a pipe, on a thread of its own.

    When the parent asks for it, and when the parent is gone, the thread ends this process at once, whatever the main
    thread is doing: it may be deep in a library, loading or evaluating for minutes. Nothing here needs an orderly end.
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

    def take(self, timeout: float | None) -> Command | None:
        try:
            return self._commands.get(block=timeout != 0, timeout=timeout)
        except queue.Empty:
            return None
