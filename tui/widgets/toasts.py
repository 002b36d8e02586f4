"""Messages over the dashboard that disappear after a while."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import inf
from typing import Any, Literal

from textual.app import App

from moe_watch.tui.text.sanitize import one_line
from moe_watch.tui.text.word_wrap import SENTENCE_LIMIT

TOAST_SECONDS = 10.0
"""Seconds that a warning is shown."""

Severity = Literal["information", "warning"]


class Toasts:
    """Messages of the app, of which none is on the screen twice.

    Args:
        app: shows the messages.
        clock: monotonic seconds.
    """

    def __init__(self, app: App[Any], clock: Callable[[], float]) -> None:
        self._app = app
        self._clock = clock
        self._of_source: list[str] = []
        self._last: dict[str, float] = {}
        """The last warning about the run, and the time when it was shown."""

    def tell(self, message: str, *, severity: Severity = "information") -> None:
        """Show a message unless it is on the screen: a held key would repeat it."""
        if all(shown.message != message for shown in self._app._notifications):
            self._app.notify(message, severity=severity, markup=False)

    def warn(self, text: str) -> None:
        """Show untrusted text as a warning, unless it was shown within the last `TOAST_SECONDS`."""
        now = self._clock()
        if now - self._last.get(text, -inf) >= TOAST_SECONDS:
            self._last = {text: now}
            self._show(text)

    def warn_of_source(self, warnings: Iterable[str]) -> None:
        """Show each warning of a source once."""
        for warning in warnings:
            if warning not in self._of_source:
                self._of_source.append(warning)
                self._show(warning)

    def begin_source(self) -> None:
        """Forget the warnings of the previous source."""
        self._of_source.clear()

    def _show(self, text: str) -> None:
        self._app.notify(one_line(text, SENTENCE_LIMIT), severity="warning", timeout=TOAST_SECONDS, markup=False)
