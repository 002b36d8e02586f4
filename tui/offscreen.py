"""The dashboard on a null terminal, to measure its cost."""

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
    """Driver that writes every frame to the null device."""

    @property
    def is_headless(self) -> bool:
        """False: Textual draws nothing for a headless driver."""
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
    """The dashboard; it exits when its source has ended."""

    def get_driver_class(self) -> type[Driver]:
        return UnseenDriver

    def tick(self) -> None:
        super().tick()
        if self.source.ended:
            self.exit()


def run_unseen(source: Source) -> None:
    """Follow a source to its end on a dashboard of `SIZE`, without a limit of the rate.

    Raises:
        UserError: the dashboard failed.
    """
    with _true_colour():
        app = UnseenApp(source, clock=time.monotonic)
        app.run(size=SIZE)
    if app.return_code:
        raise UserError("the dashboard failed", advice="see its output above")


@contextmanager
def _true_colour() -> Iterator[None]:
    """Set the environment of a true-colour terminal, so that frames do not depend on the caller's terminal."""
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
