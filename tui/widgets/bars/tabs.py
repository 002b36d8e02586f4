"""Bar of the panels' names, where only one panel fits at a time."""

from __future__ import annotations

from collections.abc import Hashable

from textual import events
from textual.geometry import Size
from textual.message import Message
from textual.strip import Strip

from moe_watch.tui.state.frame import Frame
from moe_watch.tui.widgets.frame_widget import FrameWidget

TABS = ("stream", "experts", "entropy", "pressure", "vitals")


class TabBar(FrameWidget):
    """One row: `1 stream  2 experts …`; click a name or press its number. In a replay, digits and arrows seek."""

    class TabClicked(Message):
        """A tab was clicked."""

        def __init__(self, tab: str) -> None:
            super().__init__()
            self.tab = tab

    def __init__(self, *, id: str) -> None:  # noqa: A002 - the name that Textual uses
        super().__init__(id=id)
        self.active = TABS[0]
        self._spots: list[tuple[int, int, str]] = []

    def state(self, frame: Frame) -> Hashable:
        return self.active, frame.seekable

    def draw(self, frame: Frame, size: Size) -> list[Strip]:
        ink, row = self.palette, self.row(size.width).put(" ")
        self._spots = []
        for number, tab in enumerate(TABS, 1):
            start, active = row.used, tab == self.active
            row.put(" " if frame.seekable else f" {number} ", ink.chip if active else ink.faint)
            row.put(f"{tab} ", ink.chip if active else ink.muted)
            self._spots.append((start, row.used, tab))
            row.put(" ")
        return [row.right(("tab " if frame.seekable else "← →  1–5 ", ink.faint)).strip()]

    def on_click(self, event: events.Click) -> None:
        for start, end, tab in self._spots:
            if start <= event.x < end:
                self.post_message(self.TabClicked(tab))
