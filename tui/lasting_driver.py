"""A driver that outlives its terminal: where nothing can be drawn any more, the dashboard leaves in good order."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, TextIO

from textual.drivers.linux_driver import LinuxDriver


class LastingDriver(LinuxDriver):
    """Textual's driver for terminals, but what it cannot write is dropped and has the app leave.

    Textual's own thread for output ends with its first error, as when the terminal's window is closed. Whoever draws
    then fills its queue and waits for ever, with the recording open.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        if self._file is not None:
            self._file = _Lasting(self._file, self._leave)  # type: ignore[assignment]

    def _leave(self) -> None:
        with suppress(RuntimeError):  # it has left already
            self._loop.call_soon_threadsafe(self._app.exit)


class _Lasting:
    """What Textual uses of a terminal's file; `lost` is called once, when it can no longer be written to."""

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
