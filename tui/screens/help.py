"""Help: every key, from the registry of actions, and the meaning of the symbols in the panels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from moe_watch.routing.pressure.formulas import MODES, mode_words
from moe_watch.tui.input.actions import ACTIONS, FIXED_KEYS, GROUP_TITLES, Action, Group
from moe_watch.tui.state.frame import Frame
from moe_watch.tui.widgets.panels.pressure.pause_reasons import pause_reasons

MARKS: tuple[tuple[str, str], ...] = (
    ("⟶ go on", "an injection; its tokens follow in the accent colour"),
    ("── end of text ──", "the model ended its text here, and the run continued"),
    ("◇ tap off", "a setting of the run was changed here"),
    ("⊘", "a command that was refused here, and the reason"),
    ("◆", "a marker with its note; in the pressure panel, the chunk that crossed half of P₀"),
    ("┊ and ╵ in pressure", "an injection or a change of the mask before this chunk: the last few, and earlier ones"),
    (
        "×  ╱╱×╱╱  ⠛⣤",
        "an expert that is switched off; also where the mask was changed, and beside a layer with some off",
    ),
    ("╎ and ▾ in pressure", "breakpoint of a cliff: the fitted curve falls or rises at this chunk"),
    ("blue curve in pressure", "fitted to the measured chunks, dotted where it is a forecast; its 95 % band is shaded"),
    ("━●─◆─▴─×─ below", "the timeline of a replay: position, markers, injections and changes of the mask"),
    ("── fresh context ──", "the context was full, and the run continued in an empty one"),
    ("␛ ⟨202E⟩", "a control or hidden character of the text, shown as its code"),
    ("underlined text", "the tokens of highest surprisal (or router entropy)"),
    ("[18] in a tile", "the cursor; numbers are percent of the layer's selections in the window"),
    ("bright line under a tile", "an expert selected for the newest token"),
    ("grey in pressure", "warm-up: shown, not measured"),
)


class HelpScreen(ModalScreen[None]):
    """Scrollable help; `?`, `F1`, `q` or `escape` closes it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,question_mark,f1,q", "dismiss", show=False)]

    def __init__(self, frame: Frame) -> None:
        super().__init__(id="help")
        self._frame = frame

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="help-box") as box:
            box.border_title = "Help"
            box.border_subtitle = "esc closes"
            yield Static(self._keys(), id="help-keys")
            yield Static(_table("Symbols", MARKS), id="help-marks")
            if self._frame.view.header is not None and not self._frame.view.is_dense:
                yield Static(self._pauses(self._frame.view.header.model.experts))

    def _keys(self) -> Table:
        """Return the table of keys: offered actions first, then refused ones below their common reason."""
        table = _empty_table()
        for group in self._groups():
            table.add_row(Text(), Text(GROUP_TITLES[group], style="bold"))
            self._add_actions(table, [action for action in ACTIONS if action.group == group and action.shown])
        table.add_row(Text(), Text("Navigation", style="bold"))
        for key, description in FIXED_KEYS:
            table.add_row(Text(key, style="bold"), Text(description))
        return table

    def _groups(self) -> list[Group]:
        """Return the groups of actions: seeking first if it is possible, groups without an offered action last."""
        offered = {action.group for action in ACTIONS if action.offered(self._frame)}
        return sorted(
            GROUP_TITLES, key=lambda group: (group not in offered, not (self._frame.seekable and group == "seek"))
        )

    def _add_actions(self, table: Table, actions: Sequence[Action]) -> None:
        refused: dict[str, list[Action]] = {}
        for action in actions:
            if action.offered(self._frame):
                table.add_row(Text(action.shown, style="bold"), Text(action.description))
            else:
                refused.setdefault(action.reason(self._frame), []).append(action)
        for reason, those in refused.items():
            table.add_row(Text(), Text(f"not now ({reason}):", style="italic"))
            for action in those:
                table.add_row(Text(action.shown, style="bold"), Text(action.description, style="dim"))

    def _pauses(self, experts: int) -> Table:
        """Return the table of ChronoMoE's pause reasons, and whether each mode can reach them."""
        table = _table("Pauses", ())
        for mode in (MODES[0], MODES[-1]):
            table.add_row(Text(), Text(f"{mode_words(mode)}, with {experts} experts", style="dim"))
            for reason, words in pause_reasons(mode, experts):
                table.add_row(Text(reason, style="bold"), Text(words))
        return table


def _table(title: str, rows: Iterable[tuple[str, str]]) -> Table:
    table = _empty_table()
    table.add_row(Text(), Text(title, style="bold"))
    for left, right in rows:
        table.add_row(Text(left, style="bold"), Text(right))
    return table


def _empty_table() -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", min_width=18)
    table.add_column(ratio=1)
    return table
