"""Dialogs of the dashboard: questions for a text, and the search in a recording."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial

from textual.app import App

from moe_watch.tui.input.actions import BY_ID
from moe_watch.tui.input.control import Control
from moe_watch.tui.screens.ask import JUMP, NOTE, PROMPT, SAY, SAY_OR_TURN, TURN, AskScreen, Question, Reply
from moe_watch.tui.screens.dashboard import DashboardScreen
from moe_watch.tui.screens.find import FindScreen, quoted, search_status
from moe_watch.tui.text.sanitize import one_line
from moe_watch.tui.text.word_wrap import SENTENCE_LIMIT

HISTORY_KEPT = 50


class Dialogs:
    """Dialogs that ask the user for a text and send the command for it.

    Args:
        app: shows the screens.
        board: the main screen; its timeline shows the progress of a search.
        control: sends the commands.
        redraw: draws a frame after a reply.
    """

    def __init__(self, app: App[None], board: DashboardScreen, control: Control, redraw: Callable[[], None]) -> None:
        self._app = app
        self._board = board
        self._control = control
        self._redraw = redraw
        self._history: deque[str] = deque(maxlen=HISTORY_KEPT)

    def say(self) -> None:
        """Ask for a text to inject; as a turn only if the model has a chat template."""
        question = SAY_OR_TURN if "turn" in self._control.source.abilities else SAY
        self._ask(question, lambda reply: self._control.say(reply.text, reply.form, at_once=reply.at_once))

    def turn(self) -> None:
        """Ask for the next turn of the conversation."""
        self._ask(TURN, lambda reply: self._control.turn(reply.text))

    def prompt(self) -> None:
        """Ask for the prompt of a new run."""
        self._ask(PROMPT, lambda reply: self._control.prompt(reply.text))

    def jump(self) -> None:
        """Ask for a position in the recording."""
        self._ask(JUMP, lambda reply: self._seek(reply.text))

    def mark(self) -> None:
        """Ask for the note of a marker."""
        self._ask(NOTE, lambda reply: self._mark(reply.text))

    def _ask(self, question: Question, then: Callable[[Reply], None]) -> None:
        def answered(reply: Reply | None) -> None:
            if reply is not None:
                self._remember(reply.text)
                then(reply)
                self._redraw()

        previewer = partial(self._control.preview, turn=question.sends == "turn")
        self._app.push_screen(AskScreen(question, list(self._history), previewer=previewer), answered)

    def _remember(self, text: str) -> None:
        """Add a text to the history, unless it is empty or the newest there."""
        if text and text not in list(self._history)[-1:]:
            self._history.append(text)

    def _seek(self, text: str) -> None:
        if refusal := self._control.seek_written(text):
            self._app.notify(one_line(refusal, SENTENCE_LIMIT), severity="warning", markup=False)

    def _mark(self, note: str) -> None:
        self._control.mark(note)
        self._app.notify(f"marked at token {self._control.view.tokens:,}", markup=False)

    def find(self) -> None:
        """Ask for a text to search for."""
        self._app.push_screen(FindScreen(self._control.sought), lambda _: self._control.stop_search())

    def find_next(self) -> None:
        """Search for the last text again; ask for one if there is none."""
        if self._control.sought:
            self.search(self._control.sought)
        else:
            self.find()

    def search(self, text: str) -> None:
        """Begin a search."""
        if not self._control.find(text):
            self._app.notify(f"{BY_ID['find'].title}: nothing of the recording can be searched yet", markup=False)

    def follow_search(self) -> None:
        """Show the progress of a search, or its result. The seek to a match is under way already."""
        search = self._control.follow_search()
        if search is None:
            self._board.timeline.note = ""
            return
        message = f"{quoted(search.text)}: {search_status(search)}"
        self._board.timeline.note = "" if search.over else message
        screen = self._app.screen
        if isinstance(screen, FindScreen):
            screen.show_status(search)
        elif search.over and (search.match is None or search.wrapped):
            self._app.notify(message, markup=False)
