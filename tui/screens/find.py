"""The line in which a text to look for in a recording is written, and how far the search is."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.content import Content
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from moe_watch.sessions.replaying.search import Search
from moe_watch.tui.text.format import count, percent
from moe_watch.tui.text.sanitize import one_line

LONGEST = 200
"""Characters that can be looked for."""
KEYS = "enter next · esc closes"
SHOWN = 24
"""Characters of the text that are repeated in a message."""


class FindScreen(ModalScreen[None]):
    """Stays while one goes from place to place; the dashboard is seen above it.

    Args:
        text: what was looked for last.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss", show=False, priority=True)]

    class Asked(Message):
        """The next place of a text is wanted.

        Args:
            text: what was written, not empty.
        """

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    def __init__(self, text: str = "") -> None:
        super().__init__(id="find")
        self._text = text

    def compose(self) -> ComposeResult:
        line = Input(self._text, placeholder="text to find", id="find-line", compact=True, max_length=LONGEST)
        line.cursor_blink = False
        with Horizontal(id="find-box"):
            yield Static("/", id="find-sign")
            yield line
            yield Static(KEYS, id="find-status")

    def tell(self, search: Search) -> None:
        """Say how far a search is, or what it came to."""
        self.query_one("#find-status", Static).update(Content(f"{told(search)} · {KEYS}"))

    @on(Input.Submitted)
    def ask(self, event: Input.Submitted) -> None:
        """Go to the next place."""
        event.stop()
        if event.value:
            self.post_message(self.Asked(event.value))


def told(search: Search) -> str:
    """How far a search is, or what it came to, in a few words."""
    if search.problem:
        return one_line(search.problem, 120)
    if not search.over:
        return f"looking, {percent(search.share, 0)}"
    if search.match is None:
        return "not found outside the prompt"
    behind = ", from the beginning again" if search.wrapped else ""
    return f"token {count(search.match.first)}{behind}"


def quoted(text: str) -> str:
    """A text that is looked for, as messages have it."""
    return f"‘{one_line(text, SHOWN)}’"
