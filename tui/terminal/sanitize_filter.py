"""The last gate before the terminal: nothing acts, whichever widget drew it."""

from __future__ import annotations

from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter
from textual.strip import Strip

from moe_watch.tui.text.sanitize import inert, is_inert


class InertFilter(LineFilter):
    """Makes lines inert that Textual's own widgets draw from what a person typed or pasted.

    A line stays as wide as it is: where characters that are shown instead take more room, its end is cut off.
    """

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:  # noqa: ARG002 - of no matter here
        if is_inert("".join([segment.text for segment in segments])):
            return segments
        width = sum(segment.cell_length for segment in segments)
        safe = [Segment(inert(segment.text), segment.style) for segment in segments]
        return list(Strip(safe).adjust_cell_length(width))
