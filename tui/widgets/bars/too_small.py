"""What is shown where nothing else fits."""

from __future__ import annotations

from collections.abc import Hashable

from textual.geometry import Size
from textual.strip import Strip

from moe_watch.tui.state.frame import Frame
from moe_watch.tui.widgets.base import FrameWidget

LEAST_WIDTH = 60
LEAST_HEIGHT = 16


class TooSmall(FrameWidget):
    """Says how large the terminal must be, and how large it is. The run goes on meanwhile."""

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
