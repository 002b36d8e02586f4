"""Checks of the machine and of the model on the dashboard, line by line as they finish."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import ClassVar

from rich.table import Table
from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import Static

from moe_watch.backends.protocol import EngineOptions
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Header
from moe_watch.sessions.checking.model_files import CheckedModel, engine_choice_check, files_check
from moe_watch.sessions.checking.results import CheckResult, CheckStatus, failure, fine, warning
from moe_watch.sessions.checking.routing import layer_check
from moe_watch.sessions.checking.sequence import file_checks, machine_checks
from moe_watch.sessions.checking.time_limit import Cancellation, Cancelled
from moe_watch.sessions.text import plural
from moe_watch.tui.drawing.colours import palette_of
from moe_watch.tui.terminal.abilities import terminal_abilities
from moe_watch.tui.terminal.checks import terminal_checks
from moe_watch.tui.text.sanitize import one_line
from moe_watch.tui.text.word_wrap import SENTENCE_LIMIT

WORDS: dict[CheckStatus, str] = {"ok": "ok", "warning": "warn", "fail": "FAIL"}
"""Word of a status; the colour only repeats it."""
KEYS = "r checks again · esc back"


class CheckScreen(ModalScreen[None]):
    """Screen with the checks of `moe-watch check`. They run on a thread.

    A model that runs is not loaded a second time: its files are checked, and what its process has reported.

    Args:
        model: model as the user typed it; empty for a replay.
        header: header of the run in progress; None while the model is loaded, or if that failed.
        no_color: the app draws without colours.
    """

    class CheckDone(Message):
        """A check is finished."""

        def __init__(self, round_: int, check: CheckResult | None) -> None:
            super().__init__()
            self.round = round_
            self.check = check
            """None after the last one."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,C", "dismiss", show=False),
        Binding("r", "reload", show=False),
    ]

    def __init__(self, *, model: str = "", header: Header | None = None, no_color: bool = False) -> None:
        super().__init__(id="check")
        self.checks: list[CheckResult] = []
        self._model = model
        self._header = header
        self._no_color = no_color
        self._round = 0
        self._cancellation = Cancellation()

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="check-box") as box:
            box.border_title = "Check"
            box.border_subtitle = KEYS
            yield Static(id="check-lines")

    def on_mount(self) -> None:
        self.query_one("#check-box").focus()
        self.action_reload()

    def on_unmount(self) -> None:
        self._cancellation.cancel()

    def action_reload(self) -> None:
        """Make all checks again; those in progress are abandoned."""
        self._cancellation.cancel()
        self._cancellation = Cancellation()
        self._round += 1
        self.checks = []
        self._show("checking")
        round_, cancellation = self._round, self._cancellation
        self.run_worker(lambda: self._run(round_, cancellation), thread=True, group="checks", exit_on_error=False)

    def _run(self, round_: int, cancellation: Cancellation) -> None:
        try:
            for check in self._all(cancellation):
                self.post_message(self.CheckDone(round_, check))
        except Cancelled:
            return
        self.post_message(self.CheckDone(round_, None))

    def _all(self, cancellation: Cancellation) -> Iterator[CheckResult]:
        environment = {**os.environ, "NO_COLOR": "1"} if self._no_color else dict(os.environ)
        yield from terminal_checks(terminal_abilities(environment, measure=False))
        yield from machine_checks(cancellation)
        if not self._model:
            return
        try:
            model = CheckedModel.find(self._model, "auto", EngineOptions())
        except UserError as error:
            yield failure("model", error.what, error.advice)
            return
        if self._header is None:
            yield from file_checks(model, cancellation)
            return
        yield from (files_check(model), engine_choice_check(model))
        yield from _of_run(self._header)

    @on(CheckDone)
    def take_check(self, message: CheckDone) -> None:
        """Show a finished check, or the summary after the last one."""
        if message.round != self._round:
            return
        if message.check is not None:
            self.checks.append(message.check)
            self._show("checking")
        else:
            self._show("")

    def _show(self, under_way: str) -> None:
        palette = palette_of(self.app)
        styles = {"ok": palette.status.good, "warning": palette.status.warn, "fail": palette.status.bad}
        table = Table.grid(padding=(0, 2, 0, 0))
        for each in self.checks:
            value = Text(one_line(each.value, SENTENCE_LIMIT))
            if each.advice:
                value.append(f"\n→ {one_line(each.advice, SENTENCE_LIMIT)}", palette.muted)
            table.add_row(Text(WORDS[each.status], styles[each.status]), Text(each.name), value)
        table.add_row(Text(), Text(), Text(_summary(self.checks, under_way)))
        self.query_one("#check-lines", Static).update(table)


def _of_run(header: Header) -> Iterator[CheckResult]:
    """Yield what the process of the running model has reported."""
    yield fine("loading", f"loaded; {header.backend.device}, {header.backend.version}")
    yield layer_check(header.model)
    yield fine(
        "template", "a chat template is used" if header.template else "none is used: prompts are sent as they are"
    )
    for each in header.warnings:
        yield warning("model warning", each)


def _summary(checks: list[CheckResult], under_way: str) -> str:
    failed = sum(each.status == "fail" for each in checks)
    warned = sum(each.status == "warning" for each in checks)
    counted = f"{plural(failed, 'check')} failed, {plural(warned, 'warning')}" if failed else plural(warned, "warning")
    return f"\n{under_way}…" if under_way else f"\nfinished: {counted}"
