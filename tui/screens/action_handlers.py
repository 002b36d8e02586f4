"""Functions of the actions, by the ids of the registry."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from textual.app import App

from moe_watch.routing.router.masks import ExpertMask
from moe_watch.sessions.source import END, HOME, PaceStatus
from moe_watch.tui.input.actions import BY_ID
from moe_watch.tui.input.control import Control
from moe_watch.tui.screens.dashboard import DashboardScreen
from moe_watch.tui.screens.dialogs import Dialogs
from moe_watch.tui.state.mask_words import mask_change_text
from moe_watch.tui.state.pace import pace_in_words
from moe_watch.tui.widgets.toasts import Toasts

Performer = Callable[[], object]

PACE_SECONDS = 2.0
"""Time that a new generation rate is shown; several key presses in a row are usual."""


class Performers:
    """Performers of all actions except the actions of the program, which the app has.

    Args:
        app: shows messages.
        board: the main screen.
        control: sends commands to the source.
        dialogs: asks for texts.
        toasts: shows messages, none of them twice at once.
    """

    def __init__(
        self, app: App[None], board: DashboardScreen, control: Control, dialogs: Dialogs, toasts: Toasts
    ) -> None:
        self._app = app
        self._board = board
        self._control = control
        self._dialogs = dialogs
        self._toasts = toasts

    def run(self) -> dict[str, Performer]:
        """Return the actions that change the run or its recording."""
        control, dialogs = self._control, self._dialogs
        return {
            "pause": control.toggle_pause,
            "multistep": control.toggle_multistep,
            "tap": control.toggle_tap,
            "mask": self._switch_pointed,
            "unmask": lambda: self._switch(ExpertMask(), "all experts on"),
            "faster": lambda: self._show_pace(control.change_pace(1)),
            "slower": lambda: self._show_pace(control.change_pace(-1)),
            "unlimited": lambda: self._show_pace(control.unlimited()),
            "restart": control.restart,
            "go_on": control.go_on,
            "go_on_now": lambda: control.go_on(at_once=True),
            "say": dialogs.say,
            "turn": dialogs.turn,
            "prompt": dialogs.prompt,
            "record": control.toggle_recording,
            "mark": dialogs.mark,
        }

    def seek(self) -> dict[str, Performer]:
        """Return the actions that seek in a recording."""
        control, dialogs = self._control, self._dialogs
        return {
            "back": lambda: control.seek_seconds(-1),
            "on": lambda: control.seek_seconds(1),
            "previous_token": lambda: control.step(-1),
            "next_token": lambda: control.step(1),
            "previous_mark": lambda: self._seek_stop(-1),
            "next_mark": lambda: self._seek_stop(1),
            "home": lambda: control.seek(HOME),
            "end": lambda: control.seek(END),
            "jump": dialogs.jump,
            "tenth": dialogs.jump,
            "find": dialogs.find,
            "find_next": dialogs.find_next,
        }

    def panels(self) -> dict[str, Performer]:
        """Return the actions that change the contents of the panels."""
        board = self._board
        return {
            "pressure_mode": partial(board.switch, board.pressure, board.pressure.toggle_mode),
            "pressure_lines": partial(board.switch, board.pressure, board.pressure.toggle_lines),
            "pressure_fits": partial(board.switch, board.pressure, board.pressure.toggle_fits),
            "token_colour": partial(board.switch, board.stream, board.stream.toggle_colouring),
            "quantity": partial(board.switch, board.experts, self._next_quantity),
            "original": partial(board.switch, board.experts, board.experts.toggle_original),
            "maximize": board.toggle_maximized,
        }

    def _next_quantity(self) -> None:
        if not self._board.experts.next_quantity():
            self._toasts.tell("heatmap values: only usage is known here, --importance FILE adds saliency and ablation")

    def _switch_pointed(self) -> None:
        """Switch the expert, layer or column under the heatmap's cursor; without a cursor, show it."""
        heatmap, header = self._board.experts, self._control.view.header
        if header is None:
            return
        if heatmap.cursor is None:
            self._board.show_panel(heatmap)
            heatmap.point_at_busiest()
            self._toasts.tell("choose an expert with the arrows, then x")
            return
        mask, pairs = self._control.mask, heatmap.cursor.pairs(header.model.layers, header.model.experts)
        if heatmap.cursor.expert is None and set(pairs) & set(mask.pairs):
            self._switch(ExpertMask.of(set(mask.pairs) - set(pairs)), f"all experts of layer {pairs[0][0]} on")
            return
        after = mask.toggled(pairs)
        self._switch(after, mask_change_text(mask, after))

    def _switch(self, mask: ExpertMask, what: str) -> None:
        if refusal := self._control.switch_experts(mask):
            self._toasts.tell(f"{BY_ID['mask'].title}: {refusal}", severity="warning")
        else:
            self._app.notify(f"{what}, from the next token on", timeout=PACE_SECONDS, markup=False)

    def _show_pace(self, pace: PaceStatus) -> None:
        """Show a new generation rate: the footer may lack the room for it; a playback speed is in the header."""
        if "rate" in self._control.source.abilities:
            self._app.notify(f"pace: {pace_in_words(pace)}", timeout=PACE_SECONDS, markup=False)

    def _seek_stop(self, direction: int) -> None:
        if not self._control.seek_stop(direction):
            where = "after" if direction > 0 else "before"
            self._toasts.tell(f"no marker or injection {where} this token")
