"""Search line for a text in a recording, with the progress of the search."""

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
"""Maximum length of the query, in characters."""
KEYS = "enter next · esc closes"
SHOWN = 24
"""Characters of the query that a message repeats."""


class FindScreen(ModalScreen[None]):
    """Search line below the dashboard; it stays open from match to match.

    Args:
        text: query of the last search.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss", show=False, priority=True)]

    class Asked(Message):
        """Request to search for the next occurrence.

        Args:
            text: the query, not empty.
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

    def show_status(self, search: Search) -> None:
        """Show the progress of a search, or its result."""
        self.query_one("#find-status", Static).update(Content(f"{search_status(search)} · {KEYS}"))

    @on(Input.Submitted)
    def ask(self, event: Input.Submitted) -> None:
        """Search for the next occurrence."""
        event.stop()
        if event.value:
            self.post_message(self.Asked(event.value))


def search_status(search: Search) -> str:
    """Return the progress of a search, or its result, in a few words."""
    if search.problem:
        return one_line(search.problem, 120)
    if not search.over:
        return f"searching, {percent(search.share, 0)}"
    if search.match is None:
        return "not found outside the prompt"
    behind = ", search wrapped around" if search.wrapped else ""
    return f"token {count(search.match.first)}{behind}"


def quoted(text: str) -> str:
    """Return a query as messages quote it."""
    return f"‘{one_line(text, SHOWN)}’"
