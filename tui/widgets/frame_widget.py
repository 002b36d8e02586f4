"""Base of all widgets that draw a frame: rows are drawn after a change, and only changed rows are repainted."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple, Self

from rich.cells import cell_len
from rich.segment import Segment
from rich.text import Text
from textual.app import App
from textual.color import Color
from textual.content import Content
from textual.filter import ANSIToTruecolor, LineFilter
from textual.geometry import Region, Size
from textual.strip import Strip
from textual.widget import Widget

from moe_watch.tui.drawing.colours import Palette, palette_of
from moe_watch.tui.drawing.line import CellLine, Part
from moe_watch.tui.state.frame import Frame
from moe_watch.tui.text.word_wrap import wrapped


class Sides(NamedTuple):
    """Frame and padding left and right of every row; they are the same for all rows."""

    left: list[Segment]
    right: list[Segment]


class FrameWidget(Widget):
    """Widget that is drawn row by row from a `Frame`.

    Its rows have a frame and padding beside them, and no opacity, tint or hatch.
    """

    def __init__(self, *, id: str, classes: str = "") -> None:  # noqa: A002 - the name that Textual uses
        super().__init__(id=id, classes=f"frame-widget {classes}")
        self.frame: Frame | None = None
        self._rows: list[Strip] = []
        self._shown: Hashable = None
        self._palette: Palette | None = None
        self._lines: list[Strip] = []
        """All lines as last returned, rows with their sides; empty if the frame has changed too."""
        self._framed = Region()
        """Region of these lines, frame included."""
        self._sides = Sides([], [])
        self._changed: set[int] = set()
        """Rows that differ from their lines, counted from the first row; −1 is the frame above it."""
        self._known: dict[int, tuple[Strip, Strip]] = {}
        """Rows on the screen and their lines, by the identity of the row."""

    @abstractmethod
    def state(self, frame: Frame) -> Hashable:
        """Return the data that the drawing depends on: equal states are drawn equally."""

    @abstractmethod
    def draw(self, frame: Frame, size: Size) -> list[Strip]:
        """Return the rows from top to bottom, at most as tall as `size`."""

    @property
    def palette(self) -> Palette:
        """Palette of the current theme."""
        if self._palette is None:
            app: App[object] = self.app
            self._palette = palette_of(app)
        return self._palette

    def row(self, width: int) -> CellLine:
        """Return an empty row."""
        return CellLine(width, self.palette.ground)

    def show(self, frame: Frame) -> None:
        """Draw this frame, unless its state equals the state on the screen."""
        self.frame = frame
        state = self.state(frame)
        if state != self._shown:
            self._shown = state
            self.redraw()

    def redraw(self) -> None:
        """Draw all rows again, and repaint the rows that differ."""
        size = self.content_size
        if self.frame is not None and size:
            self._replace_rows(self.draw(self.frame, size)[: size.height])

    def _replace_rows(self, rows: list[Strip]) -> None:
        changed = [y for y in range(max(len(rows), len(self._rows))) if _at(rows, y) != _at(self._rows, y)]
        self._rows = rows
        self.repaint(changed)

    def repaint(self, rows: Iterable[int]) -> None:
        """Ask Textual to repaint these rows."""
        if regions := [self.across(y) for y in rows]:
            self.refresh(*regions)

    def across(self, y: int) -> Region:
        """Return the region of a row with its sides: Textual would copy a line to show only a part of it."""
        return Region(-self.styles.gutter.left, y, self.outer_size.width, 1)

    def refresh(self, *regions: Region, repaint: bool = True, layout: bool = False, recompose: bool = False) -> Self:
        """Refresh as Textual does, and record the rows: without regions everything may have changed, even the frame."""
        if regions:
            self._changed.update(y for region in regions for y in region.line_range)
        else:
            self._lines = []
        return super().refresh(*regions, repaint=repaint, layout=layout, recompose=recompose)

    def render_lines(self, crop: Region) -> list[Strip]:
        """Return all lines, or some; only changed rows are rendered again, and the frame is reused.

        Textual alone would compute styles, border and titles of every widget in every frame, changed or not.
        """
        if crop != self.outer_size.region:
            return super().render_lines(crop)
        if not self._lines or crop != self._framed:
            self._lines, self._framed = super().render_lines(crop), crop
            self._sides = self._sides_of(self._lines)
            self._known.clear()
        elif self._changed:
            self._render_rows(self._changed)
        self._changed.clear()
        return self._lines

    def _sides_of(self, lines: list[Strip]) -> Sides:
        gutter = self.styles.gutter
        if gutter.height >= len(lines):
            return Sides([], [])
        line = lines[gutter.top]
        return Sides(list(line.crop(0, gutter.left)), list(line.crop(line.cell_length - gutter.right)))

    def _render_rows(self, rows: Iterable[int]) -> None:
        """Render these rows; a row that has only moved keeps its line, with Textual's cached results."""
        (width, height), top = self.content_size, self.styles.gutter.top
        filters, background = self.get_line_filters(), self.background_colors[1]
        lines = list(self._lines)
        for y in rows:
            if 0 <= y < height:
                row = self.render_line(y).adjust_cell_length(width, self.palette.ground)
                known, line = self._known.get(id(row), (None, row))
                lines[top + y] = line if known is row else self._line_of(row, filters, background)
                self._known[id(row)] = row, lines[top + y]
            elif 0 <= top + y < len(lines):
                lines[top + y : top + y + 1] = super().render_lines(Region(0, top + y, self.outer_size.width, 1))
        self._lines = lines
        shown = {id(row) for row in self._rows}
        self._known = {key: self._known[key] for key in self._known.keys() & shown}

    def _line_of(self, row: Strip, filters: Sequence[LineFilter], background: Color) -> Strip:
        """Return a row between its sides, after all filters."""
        segments = list(row)
        for each in filters:
            segments = each.apply(segments, background)
        cells = row.cell_length + self.styles.gutter.width
        return Strip([*self._sides.left, *segments, *self._sides.right], cells)

    def render_line(self, y: int) -> Strip:
        """Return one row, as drawn."""
        if y < len(self._rows):
            return self._rows[y]
        return Strip.blank(self.content_size.width, self.palette.ground)

    def get_line_filters(self) -> Sequence[LineFilter]:
        """Return all filters except the conversion of ANSI colours to RGB, which these rows do not need."""
        filters = super().get_line_filters()
        return [each for each in filters if not isinstance(each, ANSIToTruecolor)]

    def on_resize(self) -> None:
        self.redraw_all()

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._palette = None
        if self.is_mounted:
            self.redraw_all()

    def redraw_all(self) -> None:
        """Discard all rows and draw them again: size or colours have changed."""
        self._rows = []
        self.redraw()
        self.refresh()


class Panel(FrameWidget, can_focus=True):
    """Panel: a drawing in a border, with a title above and a note below."""

    ALLOW_MAXIMIZE = True
    NAME = ""

    def __init__(self, *, id: str) -> None:  # noqa: A002 - the name that Textual uses
        super().__init__(id=id, classes="panel")
        self._written: tuple[str | None, tuple[Part, ...] | None] = (None, None)
        """Title and note in the border."""
        self._labelled: int | None = None
        """Row of the border that is being written."""

    def label(self, title: str = "", *note: Part) -> None:
        """Write `NAME` and `title` into the upper border and `note` into the lower one; none of it is markup."""
        ink, before, self._written = self.palette, self._written, (title, note)
        if title != before[0]:
            self._labelled = -1
            head = Text.assemble((self.NAME, ink.strong), (f"  {title}", ink.muted))
            self.border_title = Content.from_rich_text(head)
        if note != before[1]:
            self._labelled = self.content_size.height
            self.border_subtitle = Content.from_rich_text(Text.assemble(*note))
        self._labelled = None

    def refresh(self, *regions: Region, repaint: bool = True, layout: bool = False, recompose: bool = False) -> Self:
        """Refresh only one border row after a label has changed: Textual would draw the whole panel again."""
        if self._labelled is not None and not regions:
            regions = (self.across(self._labelled),)
        return super().refresh(*regions, repaint=repaint, layout=layout, recompose=recompose)

    def notify_style_update(self) -> None:
        self._written = (None, None)
        super().notify_style_update()

    def message(self, width: int, height: int, text: str) -> list[Strip]:
        """Return the rows of a sentence in the middle of the panel, wrapped to its width."""
        ink = self.palette
        rows = [
            self.row(width).to((width - cell_len(line)) // 2).put(line, ink.faint).strip()
            for line in wrapped(text, width)
        ]
        return [self.row(width).strip()] * ((height - len(rows)) // 2) + rows


def _at(rows: list[Strip], y: int) -> Strip | None:
    return rows[y] if y < len(rows) else None
