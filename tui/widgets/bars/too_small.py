"""Message for a terminal that is too small."""

from __future__ import annotations

from collections.abc import Hashable

from textual.geometry import Size
from textual.strip import Strip

from moe_watch.tui.state.frame import Frame
from moe_watch.tui.terminal.abilities import LEAST_HEIGHT as LEAST_HEIGHT
from moe_watch.tui.terminal.abilities import LEAST_WIDTH as LEAST_WIDTH
from moe_watch.tui.widgets.frame_widget import FrameWidget


class TooSmall(FrameWidget):
    """Message with the needed and the current size of the terminal. The run continues meanwhile."""

    def state(self, frame: Frame) -> Hashable:  # noqa: ARG002 - only the size matters
        return self.size

    def draw(self, frame: Frame, size: Size) -> list[Strip]:  # noqa: ARG002
        width, height = size
        ink = self.palette
        lines = [
            ("terminal too small", ink.strong),
            (f"{LEAST_WIDTH}×{LEAST_HEIGHT} needed, this is {width}×{height}", ink.muted),
        ]
        blank = self.row(width).strip()
        rows = [self.row(width).to((width - len(text)) // 2).put(text, style).strip() for text, style in lines]
        return [blank] * max(0, (height - len(rows)) // 2) + rows
