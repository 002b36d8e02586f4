"""The screens that ask for a text: to inject, as a turn, as a new prompt, as a note."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, Static, TextArea

from routing.events import PerturbationForm


@dataclass(frozen=True, slots=True)
class Reply:
    """What a person wrote."""

    text: str
    form: PerturbationForm = "raw"


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked."""

    title: str
    explanation: str
    placeholder: str = ""
    lines: bool = False
    """Several lines may be written."""
    forms: bool = False
    """The text may be raw or a turn."""
    may_be_empty: bool = False


SAY = Question(
    "Say something",
    "Put into the context at the next chunk boundary, before the model goes on.",
    "text to inject",
)
SAY_OR_TURN = Question(SAY.title, SAY.explanation, SAY.placeholder, forms=True)
TURN = Question("Next turn", "The model answers in this context, right away.", "your turn")
PROMPT = Question("New prompt", "Ends this run and begins another one, in an empty context.", lines=True)
NOTE = Question("Mark", "A note for the recording, at this token.", "what happens here", may_be_empty=True)


class AskScreen(ModalScreen[Reply | None]):
    """One question with a line or an area to write in. `up` and `down` go through what was written before."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "cancel", show=False, priority=True),
        Binding("ctrl+t", "change_form", show=False, priority=True),
        Binding("ctrl+s,ctrl+enter", "send", show=False, priority=True),
        Binding("up", "recall(1)", show=False),
        Binding("down", "recall(-1)", show=False),
    ]

    def __init__(self, question: Question, history: Sequence[str] = ()) -> None:
        super().__init__(id="ask")
        self.question = question
        self.form: PerturbationForm = "raw"
        self._history = list(history)
        self._recalled = 0

    def compose(self) -> ComposeResult:
        question = self.question
        with Vertical(id="ask-box") as box:
            box.border_title = question.title
            yield Static(Content(question.explanation), id="ask-explanation")
            if question.lines:
                area = TextArea(id="ask-area", soft_wrap=True, highlight_cursor_line=False)
                area.cursor_blink = False
                yield area
            else:
                line = Input(placeholder=question.placeholder, id="ask-line")
                line.cursor_blink = False
                yield line
            if question.forms:
                yield Static(id="ask-form")
            yield Static(Content(self._keys()), id="ask-keys")

    def on_mount(self) -> None:
        self._show_form()

    def _keys(self) -> str:
        keys = ["ctrl+s start" if self.question.lines else "enter send"]
        if self.question.forms:
            keys.append("ctrl+t raw or turn")
        if self._history and not self.question.lines:
            keys.append("↑ ↓ history")
        return " · ".join([*keys, "esc cancel"])

    def _show_form(self) -> None:
        if self.question.forms:
            raw, turn = ("●", "○") if self.form == "raw" else ("○", "●")
            self.query_one("#ask-form", Static).update(Content(f"{raw} raw continuation   {turn} user turn"))

    def action_change_form(self) -> None:
        """Raw or turn."""
        if self.question.forms:
            self.form = "turn" if self.form == "raw" else "raw"
            self._show_form()

    def action_recall(self, back: int) -> None:
        """Put an earlier text into the line."""
        if self.question.lines or not self._history:
            return
        self._recalled = min(max(0, self._recalled + back), len(self._history))
        line = self.query_one("#ask-line", Input)
        line.value = self._history[-self._recalled] if self._recalled else ""
        line.cursor_position = len(line.value)

    @on(Input.Submitted)
    def action_send(self) -> None:
        """Give back what was written."""
        lines = self.question.lines
        written = self.query_one("#ask-area", TextArea).text if lines else self.query_one("#ask-line", Input).value
        if written.strip() or self.question.may_be_empty:
            self.dismiss(Reply(written, self.form))

    def action_cancel(self) -> None:
        """Give back nothing."""
        self.dismiss(None)
