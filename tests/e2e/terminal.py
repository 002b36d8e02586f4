"""A real pseudo-terminal with a real terminal emulator in it, for driving the real program."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pyte

from tests.processes import LONG

PROGRAM = (sys.executable, "-m", "moe_watch")


class Terminal:
    """A program in a terminal of `size` (columns, rows), by default moe-watch. Use as a context manager."""

    def __init__(
        self,
        *arguments: str,
        size: tuple[int, int] = (120, 40),
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
        program: tuple[str, ...] = PROGRAM,
    ) -> None:
        self.screen = pyte.Screen(*size)
        self._stream = pyte.ByteStream(self.screen)
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
        environment = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor", **(env or {})}
        for name in ("NO_COLOR", "COLUMNS", "LINES"):  # the size is the terminal's own
            environment.pop(name, None)
        root = str(Path(__file__).parents[2])
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, environment.get("PYTHONPATH"))))
        self.process = subprocess.Popen(
            [*program, *arguments],
            cwd=cwd,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
            start_new_session=True,
            preexec_fn=_own_the_terminal,
        )
        os.close(slave)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.hang_up()

    def hang_up(self) -> None:
        """Close the terminal, as a window that is closed does. Safe to call twice."""
        if self._master >= 0:
            os.close(self._master)
            self._master = -1

    @property
    def text(self) -> str:
        """Return the text on the screen."""
        return "\n".join(self.screen.display)

    def press(self, keys: str) -> None:
        """Type."""
        os.write(self._master, keys.encode())

    def wait_for(self, wanted: str | Callable[[str], bool]) -> str:
        """Read until the screen shows `wanted`; returns the screen.

        Raises:
            AssertionError: it did not in time, or the program left; with the screen as it was last.
        """
        shows = wanted if callable(wanted) else lambda text: wanted in text
        deadline = time.monotonic() + LONG
        while not shows(self.text):
            if time.monotonic() > deadline or not self._read():
                raise AssertionError(f"never saw {wanted!r} (exit status {self.process.poll()}):\n{self.text}")
        return self.text

    def wait_for_exit(self) -> int:
        """Read until the program has left and all that it wrote is read; returns its exit status."""
        deadline = time.monotonic() + LONG
        while self._read():
            assert time.monotonic() < deadline, f"still running:\n{self.text}"
        return self.process.wait(timeout=LONG)

    def _read(self) -> bool:
        """Feed what the program wrote to the emulator; False once it has left and everything is read."""
        if not select.select([self._master], [], [], 0.05)[0]:
            return self.process.poll() is None
        try:
            data = os.read(self._master, 65536)
        except OSError:
            return False
        self._stream.feed(data)
        return bool(data)


def _own_the_terminal() -> None:
    """Make standard input the controlling terminal, so that ctrl+c is a signal."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
