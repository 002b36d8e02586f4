"""Terminal driver that exits cleanly when its terminal is closed, and that can be suspended and continued."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TextIO

from textual.drivers.linux_driver import LinuxDriver


class ResilientDriver(LinuxDriver):
    """Textual's driver for terminals, with four differences.

    - Output that cannot be written is dropped, and the app exits. Textual's output thread ends with its first error, as
      when a window is closed; drawing then fills its queue and blocks forever, with the recording open.
    - Input ends with the terminal. Textual polls the end of a closed terminal, which takes a quarter of a core.
    - SIGCONT starts nothing while the app exits. A terminal that closes sends it too, and Textual treats it as the end
      of a suspension: it starts another input thread, which nothing stops, so that the process never ends.
    - SIGTSTP and SIGCONT are handled in the event loop, not between two bytecodes, where a lock may be held.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._suspended = False
        self._over = False
        self._job_control = {signal.SIGTSTP: self._suspend, signal.SIGCONT: self._continue}
        for number in self._job_control:
            signal.signal(number, signal.SIG_DFL)  # the default, until the screen has started
        self.exit_event = _Attached(self.fileno, self._leave)
        if self._file is not None:
            self._file = _ResilientFile(self._file, self._leave)  # type: ignore[assignment]

    def start_application_mode(self) -> None:
        super().start_application_mode()  # type: ignore[no-untyped-call]
        for number, act in self._job_control.items():
            self._loop.add_signal_handler(number, act)

    def stop_application_mode(self) -> None:
        if not self._suspended:
            self._over = True
            for number in self._job_control:
                self._loop.remove_signal_handler(number)
        super().stop_application_mode()

    def run_input_thread(self) -> None:
        """Read keys until the exit event is set, or until the terminal is gone."""
        try:
            super().run_input_thread()
        except OSError:
            self._leave()

    def write(self, data: str) -> None:
        """Write, unless the output thread has ended: a queue without a reader would fill up and block."""
        if self._writer_thread is not None and self._writer_thread.is_alive():
            super().write(data)

    def _suspend(self) -> None:
        """Restore the terminal, and stop this process until it is continued."""
        self._app.app_suspend_signal.publish(self._app)
        self._suspended = True
        self.suspend_application_mode()
        os.kill(os.getpid(), signal.SIGSTOP)

    def _continue(self) -> None:
        """Take the terminal back. If continued in the background, Textual stops the process again."""
        if self._over or not os.isatty(self.fileno):
            return
        if not self._suspended:  # stopped by another process: the screen belongs to the shell
            self._suspended = True
            self.suspend_application_mode()
        self._must_signal_resume = True
        self.resume_application_mode()
        self._suspended = self._must_signal_resume  # cleared by a successful start

    def _leave(self) -> None:
        with suppress(RuntimeError):  # the event loop has ended
            self._loop.call_soon_threadsafe(self._app.exit)


class _Attached(threading.Event):
    """Event that ends the input thread; it is also set once the terminal is gone.

    Args:
        terminal: file descriptor.
        lost: called once, when the terminal is gone.
    """

    def __init__(self, terminal: int, lost: Callable[[], None]) -> None:
        super().__init__()
        self._terminal = terminal
        self._lost = lost
        self._gone = False

    def is_set(self) -> bool:
        if os.isatty(self._terminal):
            return super().is_set()
        if not self._gone:
            self._gone = True
            self._lost()
        return True


class _ResilientFile:
    """Part of a terminal's file that Textual uses; `lost` is called once, when writing fails."""

    def __init__(self, file: TextIO, lost: Callable[[], None]) -> None:
        self._file = file
        self._lost = lost
        self._gone = False

    def write(self, text: str) -> None:
        self._try(lambda: self._file.write(text))

    def flush(self) -> None:
        self._try(self._file.flush)

    def fileno(self) -> int:
        return self._file.fileno()

    def _try(self, act: Callable[[], object]) -> None:
        if self._gone:
            return
        try:
            act()
        except OSError:
            self._gone = True
            self._lost()
