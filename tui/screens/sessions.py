"""List of the recorded sessions with a preview; a session can be replayed, renamed or deleted."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import OptionList, Static

from moe_watch.routing.errors import UserError
from moe_watch.sessions.library.housekeeping import delete_session, rename_session
from moe_watch.sessions.library.listing import Entry, Preview, files_of_run, list_sessions, preview
from moe_watch.sessions.text import plural
from moe_watch.tui.screens.ask import AskScreen, Question, Reply
from moe_watch.tui.screens.confirm import ConfirmScreen
from moe_watch.tui.screens.session_rows import beginning, description, head, row
from moe_watch.tui.text.format import size
from moe_watch.tui.text.sanitize import one_line

KEYS = "enter replays · d deletes · n renames · esc back"
ROOM = 4
"""Cells of the list's frame and scrollbar."""


class SessionsScreen(ModalScreen[Path | None]):
    """Screen that returns the file to replay, or None. Files are read in a thread.

    Args:
        present: path of the file that is recorded or replayed now; empty if there is none.
        running: a model runs; a replay would end its run.
    """

    class Listed(Message):
        """The folder was read."""

        def __init__(self, entries: list[Entry], problem: str = "") -> None:
            super().__init__()
            self.entries = entries
            self.problem = problem

    class Previewed(Message):
        """The beginning of a session was read, or reading failed."""

        def __init__(self, entry: Entry, found: Preview | None, problem: str = "") -> None:
            super().__init__()
            self.entry = entry
            self.found = found
            self.problem = problem

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,S", "leave", show=False),
        Binding("d", "delete", show=False),
        Binding("n", "rename", show=False),
        Binding("r", "reload", show=False),
    ]

    def __init__(self, *, present: str = "", running: bool = False) -> None:
        super().__init__(id="sessions")
        self.entries: list[Entry] = []
        self._present = Path(present).absolute() if present else None
        self._ends_run = running

    def compose(self) -> ComposeResult:
        with Vertical(id="sessions-box") as box:
            box.border_title = "Sessions"
            box.border_subtitle = KEYS
            yield Static(id="sessions-head")
            yield OptionList(id="sessions-list", markup=False)
        with VerticalScroll(id="sessions-preview") as about:
            about.border_title = "Preview"
            yield Static(id="sessions-facts")
            yield Static(id="sessions-text")

    def on_mount(self) -> None:
        self._list.focus()
        self.action_reload()

    def on_resize(self) -> None:
        self._show_entries()

    @property
    def _list(self) -> OptionList:
        return self.query_one("#sessions-list", OptionList)

    @property
    def chosen(self) -> Entry | None:
        """The session under the cursor."""
        at = self._list.highlighted
        return self.entries[at] if at is not None and at < len(self.entries) else None

    # Reading

    def action_reload(self) -> None:
        """Read the folder again."""
        self._say(Content("reading the recorded sessions"))
        self.run_worker(self._read_folder, thread=True, exclusive=True, group="list", exit_on_error=False)

    def _read_folder(self) -> None:
        try:
            self.post_message(self.Listed(list_sessions()))
        except UserError as error:
            self.post_message(self.Listed([], str(error)))

    def _read_beginning(self, entry: Entry) -> None:
        try:
            self.post_message(self.Previewed(entry, preview(entry)))
        except UserError as error:
            self.post_message(self.Previewed(entry, None, str(error)))

    @on(Listed)
    def take_list(self, message: Listed) -> None:
        """Show the sessions of the folder."""
        self.entries = message.entries
        total = size(sum(entry.size for entry in self.entries))
        box = self.query_one("#sessions-box")
        box.border_title = Content(f"Sessions · {plural(len(self.entries), 'file')}, {total}")
        if not self.entries:
            self._say(Content(one_line(message.problem, 200) or "nothing is recorded yet"))
        self._show_entries()

    def _show_entries(self) -> None:
        listed, width = self._list, max(1, self.size.width - ROOM)
        at = listed.highlighted or 0
        self.query_one("#sessions-head", Static).update(head(width))
        listed.clear_options()
        listed.add_options(
            row(entry, width, present=self._is_present(entry), running=self._ends_run) for entry in self.entries
        )
        if self.entries:
            listed.highlighted = min(at, len(self.entries) - 1)

    @on(OptionList.OptionHighlighted)
    def describe(self) -> None:
        """Show the facts of the session under the cursor, and begin to read it."""
        entry = self.chosen
        if entry is None:
            return
        self._say(description(entry, running=self._ends_run and self._is_present(entry)))
        if entry.facts is not None:
            read = partial(self._read_beginning, entry)
            self.run_worker(read, thread=True, exclusive=True, group="preview", exit_on_error=False)

    @on(Previewed)
    def take_preview(self, message: Previewed) -> None:
        """Show the preview, unless the cursor has moved."""
        if message.entry is self.chosen:
            text = Content.styled(one_line(message.problem, 200), "$warning") if message.found is None else None
            shown = text if message.found is None else beginning(message.found)
            self.query_one("#sessions-text", Static).update(shown or "")

    def _say(self, facts: Content) -> None:
        self.query_one("#sessions-facts", Static).update(facts)
        self.query_one("#sessions-text", Static).update("")

    # Actions

    @on(OptionList.OptionSelected)
    def replay(self) -> None:
        """Return the session under the cursor; ask first if that ends a run."""
        entry = self.chosen
        if entry is None or self._refuses(entry, "replay"):
            return
        if entry.facts is None:
            self._warn(entry.problem)
        elif not self._ends_run:
            self.dismiss(entry.path)
        else:
            kept = "its recording is kept" if self._present else "it is not recorded, and is lost"
            self._confirm(
                "End this run?", f"To replay a session, the run ends; {kept}.", partial(self.dismiss, entry.path)
            )

    def action_leave(self) -> None:
        """Return to the dashboard."""
        self.dismiss(None)

    def action_delete(self) -> None:
        """Delete the session under the cursor with all files of its run, after a confirmation."""
        run = [] if self.chosen is None else files_of_run(self.chosen, self.entries)
        if run and not any(self._refuses(each, "delete") for each in run):
            self._confirm("Delete?", _cost_of_deleting(run), partial(self._delete, run))

    def _delete(self, run: list[Entry]) -> None:
        try:
            for entry in run:
                delete_session(entry)
        except UserError as error:
            self._warn(str(error))
        self.action_reload()

    def action_rename(self) -> None:
        """Ask for another name for the session under the cursor."""
        entry = self.chosen
        if entry is None or self._refuses(entry, "rename"):
            return
        question = Question("Rename", "Another name, in the same folder.", "name", initial=one_line(entry.name, 200))
        self.app.push_screen(AskScreen(question), partial(self._rename, entry))

    def _rename(self, entry: Entry, reply: Reply | None) -> None:
        if reply is None or reply.text == entry.name:
            return
        try:
            rename_session(entry.path, reply.text, self.entries)
        except UserError as error:
            self._warn(str(error))
        self.action_reload()

    def _is_present(self, entry: Entry) -> bool:
        return self._present is not None and entry.path.absolute() == self._present

    def _refuses(self, entry: Entry, action: str) -> bool:
        """Return whether this is the session on the dashboard, which may not be changed; show a warning then."""
        if self._is_present(entry):
            self._warn(f"{action}: this is the session on the screen")
        return self._is_present(entry)

    def _confirm(self, title: str, explanation: str, then: Callable[[], object]) -> None:
        def answered(yes: bool | None) -> None:
            if yes:
                then()

        self.app.push_screen(ConfirmScreen(title, explanation), answered)

    def _warn(self, problem: str) -> None:
        self.notify(one_line(problem, 200), severity="warning", markup=False)


def _cost_of_deleting(run: list[Entry]) -> str:
    """Return the question about all files of a run."""
    names, total = ", ".join(each.path.name for each in run), size(sum(each.size for each in run))
    are_one = "is" if len(run) == 1 else "are one run, and"
    sentences = [f"{one_line(names, 120)}, {total}, {are_one} deleted for good."]
    if run[-1].condition == "unfinished":
        sentences.append("It has no end: it may still be recorded.")
    return " ".join(sentences)
