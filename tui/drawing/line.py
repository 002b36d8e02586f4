"""One line of a drawn widget, put together from left to right; never wider than it may be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

Part = tuple[str, Style]


class CellLine:
    """A line of `width` cells. Whatever does not fit is cut off."""

    def __init__(self, width: int, ground: Style) -> None:
        self.width = width
        self.used = 0
        self._ground = ground
        self._segments: list[Segment] = []

    @property
    def text(self) -> str:
        """What was put so far."""
        return "".join(segment.text for segment in self._segments)

    @property
    def room(self) -> int:
        """Cells left."""
        return self.width - self.used

    def put(self, text: str, style: Style | None = None) -> CellLine:
        """Add text, which must hold no control characters."""
        if text and self.room > 0:
            cells = cell_len(text)
            if cells > self.room:
                text, cells = set_cell_size(text, self.room), self.room
            self._add(text, cells, style or self._ground)
        return self

    def fill(self, character: str, cells: int, style: Style) -> CellLine:
        """Add a character of one cell many times; the fast way for bars, heat and charts."""
        cells = min(cells, self.room)
        if cells > 0:
            self._add(character * cells, cells, style)
        return self

    def extend(self, segments: Iterable[Segment], cells: int) -> CellLine:
        """Add finished segments of `cells` in all that are known to fit."""
        self._segments.extend(segments)
        self.used += cells
        return self

    def narrow(self, text: str, style: Style) -> CellLine:
        """Add text of one-cell characters that is known to fit."""
        self._add(text, len(text), style)
        return self

    def words(self, text: str, style: Style | None = None) -> CellLine:
        """Add text, ending in `…` if it does not fit."""
        if self.room > 1 and cell_len(text) > self.room:
            text = f"{set_cell_size(text, self.room - 1).rstrip()}…"
        return self.put(text, style)

    def first_that_fits(self, *variants: Sequence[Part]) -> CellLine:
        """Add the first of several ways to say something that fits; the last one is cut if none does."""
        chosen = next((parts for parts in variants if cells_of(*parts) <= self.room), variants[-1])
        for text, style in chosen:
            self.words(text, style)
        return self

    def to(self, column: int) -> CellLine:
        """Fill with the ground up to `column`."""
        return self.put(" " * max(0, min(column, self.width) - self.used))

    def right(self, *parts: Part) -> CellLine:
        """Put parts at the right end, if all of them fit with a space before."""
        cells = sum(cell_len(text) for text, _ in parts)
        if cells + 1 <= self.room or (not self.used and cells <= self.width):
            self.to(self.width - cells)
            for text, style in parts:
                self.put(text, style)
        return self

    def _add(self, text: str, cells: int, style: Style) -> None:
        """Add a stretch; it is joined to the one before if they look the same."""
        segments = self._segments
        if segments and (segments[-1].style is style or segments[-1].style == style):
            text = segments.pop().text + text
        segments.append(Segment(text, style))
        self.used += cells

    def strip(self) -> Strip:
        """The finished line, filled to its width."""
        self.to(self.width)
        return Strip(self._segments, self.width)


def on(style: Style, background: Style) -> Style:
    """`style` on the background of another."""
    return _on(style, background)


@lru_cache(maxsize=256)
def _on(style: Style, background: Style) -> Style:
    return style + Style(bgcolor=background.bgcolor)


def cells_of(*parts: Part) -> int:
    """Width of parts put side by side."""
    return sum(cell_len(text) for text, _ in parts)
