"""Last filter before the terminal: it sanitizes the lines of every widget."""

from __future__ import annotations

from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter
from textual.strip import Strip

from moe_watch.tui.text.sanitize import inert, is_inert


class SanitizeFilter(LineFilter):
    """Filter that sanitizes lines, as Textual's widgets draw them from text that the user typed or pasted.

    A line keeps its width: if replacements are wider than the characters they replace, its end is cut off.
    """

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:  # noqa: ARG002 - not needed here
        if is_inert("".join([segment.text for segment in segments])):
            return segments
        width = sum(segment.cell_length for segment in segments)
        safe = [Segment(inert(segment.text), segment.style) for segment in segments]
        return list(Strip(safe).adjust_cell_length(width))
