"""Footer: the keys that act now, and the position in the run and in the context."""

from __future__ import annotations

from collections.abc import Hashable

from rich.cells import cell_len
from textual import events
from textual.geometry import Size
from textual.message import Message
from textual.strip import Strip

from moe_watch.tui.drawing.line import CellLine, Part, cells_of, on
from moe_watch.tui.input.actions import BY_ID, Action, footer_actions
from moe_watch.tui.state.frame import Frame
from moe_watch.tui.text.format import count
from moe_watch.tui.widgets.frame_widget import FrameWidget


class FooterBar(FrameWidget):
    """Keys at the left, limited to the width, help always included; a click on one performs its action."""

    class KeyClicked(Message):
        """The user clicked a key."""

        def __init__(self, action: Action) -> None:
            super().__init__()
            self.action = action

    def __init__(self, *, id: str) -> None:  # noqa: A002 - the name that Textual uses
        super().__init__(id=id)
        self._spots: list[tuple[int, int, Action]] = []

    def state(self, frame: Frame) -> Hashable:
        view = frame.view
        source = frame.abilities, frame.recording.mode, frame.pace_text
        return source, frame.timeline is None, frame.status, view.runs, view.tokens, view.chunks, frame.queued_text

    def draw(self, frame: Frame, size: Size) -> list[Strip]:
        bar = self.palette.bar
        right = self._place(frame, short=False)
        if cells_of(*right) > size.width // 2:
            right = self._place(frame, short=True)
        row = CellLine(size.width, bar).put(" ")
        self._put_keys(row, frame, size.width - cells_of(*right) - 2)
        return [row.right(*right, (" ", bar)).strip()]

    def _put_keys(self, row: CellLine, frame: Frame, end: int) -> None:
        """Draw keys by rank; room for help, which is last, is reserved."""
        ink, help_action = self.palette, BY_ID["help"]
        key_style, text_style = on(ink.accent_bold, ink.bar), on(ink.muted, ink.bar)
        self._spots = []
        reserved = _width(help_action, frame)
        chosen: list[Action] = []
        used = row.used
        for action in footer_actions(frame):
            if action is not help_action and used + _width(action, frame) + reserved <= end:
                chosen.append(action)
                used += _width(action, frame)
        for action in [*chosen, help_action]:
            start = row.used
            row.put(action.shown, key_style).put(f" {action.caption(frame)}", text_style)
            self._spots.append((start, row.used, action))
            row.put("  ")

    def _place(self, frame: Frame, *, short: bool) -> list[Part]:
        """Return chunk, token and context length, after a queued injection."""
        ink, view = self.palette, frame.view
        muted, text = on(ink.muted, ink.bar), ink.bar
        parts: list[Part] = []
        if frame.queued is not None:
            parts += [(frame.queued_text, on(ink.accent_bold, ink.bar)), ("  ", text)]
            if short:
                return parts[:1]
        if view.header is None:
            return [(f"pace {frame.pace_text}", muted)]
        beyond = view.beyond_trained
        if beyond is not None:
            parts += [(f"beyond trained length {count(beyond)}", on(ink.status.warn, ink.bar)), ("  ", text)]
        if not short:
            parts += [(f"pace {frame.pace_text}", muted), (" · ", muted)]
        if view.counts_only:
            return [*parts, ("counts, no tokens", muted)]
        parts.append((f"chunk {count(view.chunks)}", muted))
        if frame.timeline is not None:  # the timeline shows the token
            return parts
        context = view.header.model.context_length
        of_context = "" if context is None else f" / {count(context)}"
        parts += [(" · ", muted), (f"token {count(view.position)}", text)]
        return [*parts, (of_context, muted)]

    def on_click(self, event: events.Click) -> None:
        for start, end, action in self._spots:
            if start <= event.x < end:
                self.post_message(self.KeyClicked(action))


def _width(action: Action, frame: Frame) -> int:
    return cell_len(action.shown) + 1 + cell_len(action.caption(frame)) + 2
