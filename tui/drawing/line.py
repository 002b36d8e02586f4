"""One line of a widget, built from left to right and never wider than its limit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

Part = tuple[str, Style]


class CellLine:
    """A line of `width` cells. Text beyond them is cut off."""

    def __init__(self, width: int, ground: Style) -> None:
        self.width = width
        self.used = 0
        self._ground = ground
        self._segments: list[Segment] = []

    @property
    def text(self) -> str:
        """Text added so far."""
        return "".join(segment.text for segment in self._segments)

    @property
    def room(self) -> int:
        """Number of cells that remain."""
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
        """Add a one-cell character `cells` times; the fast path for bars, heatmap and charts."""
        cells = min(cells, self.room)
        if cells > 0:
            self._add(character * cells, cells, style)
        return self

    def extend(self, segments: Iterable[Segment], cells: int) -> CellLine:
        """Add segments of `cells` in total, which the caller has checked to fit."""
        self._segments.extend(segments)
        self.used += cells
        return self

    def narrow(self, text: str, style: Style) -> CellLine:
        """Add text of one-cell characters, which the caller has checked to fit."""
        self._add(text, len(text), style)
        return self

    def words(self, text: str, style: Style | None = None) -> CellLine:
        """Add text, ending in `…` if it does not fit."""
        if self.room > 1 and cell_len(text) > self.room:
            text = f"{set_cell_size(text, self.room - 1).rstrip()}…"
        return self.put(text, style)

    def first_that_fits(self, *variants: Sequence[Part]) -> CellLine:
        """Add the first variant that fits; if none does, the last one is cut."""
        chosen = next((parts for parts in variants if cells_of(*parts) <= self.room), variants[-1])
        for text, style in chosen:
            self.words(text, style)
        return self

    def to(self, column: int) -> CellLine:
        """Fill with spaces up to `column`."""
        return self.put(" " * max(0, min(column, self.width) - self.used))

    def right(self, *parts: Part) -> CellLine:
        """Align parts at the right end, if all of them fit with a space before them."""
        cells = sum(cell_len(text) for text, _ in parts)
        if cells + 1 <= self.room or (not self.used and cells <= self.width):
            self.to(self.width - cells)
            for text, style in parts:
                self.put(text, style)
        return self

    def _add(self, text: str, cells: int, style: Style) -> None:
        """Add text; it is joined to the segment before it if their styles are equal."""
        segments = self._segments
        if segments and (segments[-1].style is style or segments[-1].style == style):
            text = segments.pop().text + text
        segments.append(Segment(text, style))
        self.used += cells

    def strip(self) -> Strip:
        """Return the line, filled to its width."""
        self.to(self.width)
        return Strip(self._segments, self.width)


def on(style: Style, background: Style) -> Style:
    """Return `style` on the background of another."""
    return _on(style, background)


@lru_cache(maxsize=256)
def _on(style: Style, background: Style) -> Style:
    return style + Style(bgcolor=background.bgcolor)


def cells_of(*parts: Part) -> int:
    """Return the width of parts side by side, in cells."""
    return sum(cell_len(text) for text, _ in parts)
