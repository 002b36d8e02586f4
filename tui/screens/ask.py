"""Dialogs that ask for a text: an injection, a turn, a prompt, a note."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import Input, Static, TextArea

from moe_watch.routing.events import PerturbationForm
from moe_watch.sessions.source import PendingPreview
from moe_watch.tui.text.rendered import preview_content

PREVIEW_SECONDS = 0.05
"""Seconds between two checks whether a preview was answered."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Text of the user, and how to inject it."""

    text: str
    form: PerturbationForm = "raw"
    at_once: bool = False
    """Inject after the next token, not at the next chunk boundary."""


@dataclass(frozen=True, slots=True)
class Question:
    """Texts and options of a dialog."""

    title: str
    explanation: str
    placeholder: str = ""
    lines: bool = False
    """Open with a field of several lines."""
    forms: bool = False
    """Let the user choose between raw text and a turn."""
    moments: bool = False
    """Let the user choose between the next chunk boundary and at once."""
    may_be_empty: bool = False
    initial: str = ""
    """Text in the field at first."""
    sends: Literal["", "prompt", "turn"] = ""
    """The text is sent through the chat template, and can be previewed."""


SAY = Question("Say something", "Injected into the context before the model continues.", "text to inject", moments=True)
SAY_OR_TURN = Question(SAY.title, SAY.explanation, SAY.placeholder, forms=True, moments=True)
TURN = Question("Next turn", "The model answers in this context, at once.", "your turn", sends="turn")
PROMPT = Question(
    "New prompt", "Ends this run and begins another one, in an empty context.", lines=True, sends="prompt"
)
JUMP = Question("Jump", "To a token, a share of the recording, or a time.", "1200, 30%, 1:30 or 90s")
NOTE = Question("Mark", "A note for the recording, at this token.", "what happens here", may_be_empty=True)


class Recall(Message):
    """Request for an older text of the history, or a newer one if `back` is negative."""

    def __init__(self, back: int) -> None:
        super().__init__()
        self.back = back


class Area(TextArea):
    """Field of several lines; `up` in the first one and `down` in the last one recall the history."""

    def action_cursor_up(self, select: bool = False) -> None:
        if self.cursor_at_first_line and not select:
            self.post_message(Recall(1))
        else:
            super().action_cursor_up(select)

    def action_cursor_down(self, select: bool = False) -> None:
        if self.cursor_at_last_line and not select:
            self.post_message(Recall(-1))
        else:
            super().action_cursor_down(select)


Previewer = Callable[[str], PendingPreview]
"""Asks for a text as the model would be sent it."""


class AskScreen(ModalScreen[Reply | None]):
    """Dialog with a field of one or several lines. `up` and `down` recall the history."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "cancel", show=False, priority=True),
        Binding("ctrl+t", "change_form", show=False, priority=True),
        Binding("ctrl+b", "change_moment", show=False, priority=True),
        Binding("ctrl+l", "change_lines", show=False, priority=True),
        Binding("ctrl+r", "preview", show=False, priority=True),
        Binding("ctrl+s,ctrl+enter", "send", show=False, priority=True),
        Binding("up", "recall(1)", show=False),
        Binding("down", "recall(-1)", show=False),
    ]

    def __init__(self, question: Question, history: Sequence[str] = (), *, previewer: Previewer | None = None) -> None:
        super().__init__(id="ask")
        self.question = question
        self.form: PerturbationForm = "raw"
        self.at_once = False
        self.lines = question.lines
        """The field has several lines."""
        self._history = list(history)
        self._recalled = 0
        self._previewer = previewer if question.sends else None
        self._pending: PendingPreview | None = None

    def compose(self) -> ComposeResult:
        question = self.question
        with Vertical(id="ask-box") as box:
            box.border_title = question.title
            yield Static(Content(question.explanation), id="ask-explanation")
            line = Input(question.initial, placeholder=question.placeholder, id="ask-line", select_on_focus=False)
            area = Area(id="ask-area", soft_wrap=True, highlight_cursor_line=False)
            line.cursor_blink = area.cursor_blink = False
            yield line
            yield area
            if question.forms:
                yield Static(id="ask-form")
            if question.moments:
                yield Static(id="ask-moment")
            with VerticalScroll(id="ask-preview") as preview:
                preview.display = preview.can_focus = False
                yield Static(id="ask-preview-text")
            yield Static(id="ask-keys")

    def on_mount(self) -> None:
        self._show_lines()
        self._show_choices()
        if self._previewer is not None:
            self.set_interval(PREVIEW_SECONDS, self._follow_preview)

    @property
    def _line(self) -> Input:
        return self.query_one("#ask-line", Input)

    @property
    def _area(self) -> Area:
        return self.query_one("#ask-area", Area)

    @property
    def _written(self) -> str:
        return self._area.text if self.lines else self._line.value

    def _write(self, text: str) -> None:
        """Show this text; several lines need the larger field."""
        if "\n" in text and not self.lines:
            self.lines = True
            self._show_lines()
        if self.lines:
            self._area.text = text
            self._area.move_cursor(self._area.document.end)
        else:
            self._line.value = text
            self._line.cursor_position = len(text)

    def _show_lines(self) -> None:
        self._line.display, self._area.display = not self.lines, self.lines
        (self._area if self.lines else self._line).focus()
        self.query_one("#ask-keys", Static).update(Content(self._keys()))

    def _keys(self) -> str:
        keys = ["ctrl+s sends" if self.lines else "enter sends"]
        if not self.question.lines:
            keys.append("ctrl+l one line" if self.lines else "ctrl+l several lines")
        if self._previewer is not None:
            keys.append("ctrl+r as sent")
        if self._history:
            keys.append("↑ ↓ history")
        return " · ".join([*keys, "esc cancels"])

    def _show_choices(self) -> None:
        if self.question.forms:
            choices = _choices("ctrl+t", self.form == "turn", "raw continuation", "user turn")
            self.query_one("#ask-form", Static).update(choices)
        if self.question.moments:
            choices = _choices("ctrl+b", self.at_once, "at the chunk boundary", "at once")
            self.query_one("#ask-moment", Static).update(choices)

    def action_change_form(self) -> None:
        """Switch between raw text and a turn."""
        if self.question.forms:
            self.form = "turn" if self.form == "raw" else "raw"
            self._show_choices()

    def action_change_moment(self) -> None:
        """Switch between the chunk boundary and at once."""
        if self.question.moments:
            self.at_once = not self.at_once
            self._show_choices()

    def action_change_lines(self) -> None:
        """Switch between one line and several; line ends become spaces."""
        if self.question.lines:
            return
        text = self._written
        self.lines = not self.lines
        self._show_lines()
        self._write(text if self.lines else " ".join(text.splitlines()))

    def action_preview(self) -> None:
        """Show the text as the model would be sent it."""
        self._field.call_later(self._preview)

    def _preview(self) -> None:
        if self._previewer is not None and self._written.strip():
            self._pending = self._previewer(self._written)
            self._show_preview(Content("rendering …"))

    def _follow_preview(self) -> None:
        """Show the answer to the last preview once it has come."""
        if self._pending is not None and (answer := self._pending.answer) is not None:
            self._pending = None
            self._show_preview(preview_content(answer))

    def _show_preview(self, content: Content) -> None:
        self.query_one("#ask-preview", VerticalScroll).display = True
        self.query_one("#ask-preview-text", Static).update(content)

    def action_recall(self, back: int) -> None:
        """Show another text of the history."""
        if not self._history:
            return
        self._recalled = min(max(0, self._recalled + back), len(self._history))
        self._write(self._history[-self._recalled] if self._recalled else "")

    @on(Recall)
    def recall(self, message: Recall) -> None:
        """Recall the history when the cursor leaves the field."""
        self.action_recall(message.back)

    @on(Input.Submitted)
    def action_send(self) -> None:
        """Return the reply."""
        self._field.call_later(self._send)

    @property
    def _field(self) -> Input | TextArea:
        """Field with the text. Keys typed before are in its queue, and a priority binding comes before them."""
        return self._area if self.lines else self._line

    def _send(self) -> None:
        if self._written.strip() or self.question.may_be_empty:
            self.dismiss(Reply(self._written, self.form, self.at_once))

    def action_cancel(self) -> None:
        """Return None."""
        self.dismiss(None)


def _choices(key: str, second: bool, first_name: str, second_name: str) -> Content:
    """Return two choices, the selected one with a full dot, and the key that switches."""
    first_dot, second_dot = ("○", "●") if second else ("●", "○")
    return Content(f"{first_dot} {first_name}   {second_dot} {second_name}   {key}")
