"""Confirmation of an action that cannot be undone."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static


class ConfirmScreen(ModalScreen[bool]):
    """Dialog that returns True for `y`, and False for `n` or `escape`.

    Args:
        title: the action.
        explanation: its object and its consequences.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", show=False, priority=True),
        Binding("n,escape", "answer(False)", show=False, priority=True),
    ]

    def __init__(self, title: str, explanation: str) -> None:
        super().__init__(id="confirm")
        self._title = title
        self._explanation = explanation

    def compose(self) -> ComposeResult:
        with Vertical(id="confirm-box") as box:
            box.border_title = Content(self._title)
            yield Static(Content(self._explanation))
            yield Static(Content("y yes · n no"), id="confirm-keys")

    def action_answer(self, answer: bool) -> None:
        """Return the answer."""
        self.dismiss(answer)
