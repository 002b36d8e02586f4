"""The dashboard on a terminal that nobody looks at, to measure what it costs."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from textual.driver import Driver
from textual.drivers.headless_driver import HeadlessDriver

from moe_watch.routing.errors import UserError
from moe_watch.sessions.source import Source
from moe_watch.tui.app import MoeWatchApp

SIZE = (120, 40)
"""Columns and rows."""


class UnseenDriver(HeadlessDriver):
    """Takes every frame as a terminal would, and throws it away."""

    @property
    def is_headless(self) -> bool:
        """Textual draws nothing for a driver that says so."""
        return False

    def start_application_mode(self) -> None:
        self._nowhere = os.open(os.devnull, os.O_WRONLY)
        super().start_application_mode()

    def write(self, data: str) -> None:
        os.write(self._nowhere, data.encode())

    def close(self) -> None:
        os.close(self._nowhere)
        super().close()


class UnseenApp(MoeWatchApp):
    """The dashboard, which leaves when its source has ended."""

    def get_driver_class(self) -> type[Driver]:
        return UnseenDriver

    def tick(self) -> None:
        super().tick()
        if self.source.ended:
            self.exit()


def run_unseen(source: Source) -> None:
    """Follow a source to its end on a dashboard of `SIZE`, as fast as it goes.

    Raises:
        UserError: the dashboard failed.
    """
    with _true_colour():
        app = UnseenApp(source, clock=time.monotonic)
        app.run(size=SIZE)
    if app.return_code:
        raise UserError("the dashboard failed", advice="see what it wrote above")


@contextmanager
def _true_colour() -> Iterator[None]:
    """What is drawn must not depend on the terminal that this happens to be called from."""
    kept = {name: os.environ.get(name) for name in ("TERM", "COLORTERM", "NO_COLOR")}
    os.environ.update(TERM="xterm-256color", COLORTERM="truecolor")
    os.environ.pop("NO_COLOR", None)
    try:
        yield
    finally:
        for name, value in kept.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
