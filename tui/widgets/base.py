"""The base of every drawn panel: rows are made when something changed, and only changed rows are repainted."""

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

from moe_watch.tui.drawing import colours as palette
from moe_watch.tui.drawing.colours import Palette
from moe_watch.tui.drawing.line import CellLine, Part
from moe_watch.tui.state.frame import Frame
from moe_watch.tui.text.word_wrap import wrapped


class Sides(NamedTuple):
    """What stands left and right of every row, the same on all of them: frame and padding."""

    left: list[Segment]
    right: list[Segment]


class FrameWidget(Widget):
    """A widget drawn row by row from a `Frame`.

    Its rows have frame and padding beside them, and no opacity, tint or hatch over them.
    """

    def __init__(self, *, id: str, classes: str = "") -> None:  # noqa: A002 - Textual's own name
        super().__init__(id=id, classes=f"drawn {classes}")
        self.frame: Frame | None = None
        self._rows: list[Strip] = []
        self._shown: Hashable = None
        self._palette: Palette | None = None
        self._lines: list[Strip] = []
        """All lines as they were handed out last, rows with their sides; none if the frame has changed, too."""
        self._framed = Region()
        """Where they have their frame."""
        self._sides = Sides([], [])
        self._changed: set[int] = set()
        """Rows that differ from their lines, counted from the first one; −1 is the frame above it."""
        self._known: dict[int, tuple[Strip, Strip]] = {}
        """Rows on the screen and their lines, by the row's identity."""

    @abstractmethod
    def state(self, frame: Frame) -> Hashable:
        """What the picture depends on: equal states give equal pictures."""

    @abstractmethod
    def draw(self, frame: Frame, size: Size) -> list[Strip]:
        """All rows, from top to bottom, at most `height` of them."""

    @property
    def palette(self) -> Palette:
        """The colours of the present theme."""
        if self._palette is None:
            app: App[object] = self.app
            self._palette = palette.of(app)
        return self._palette

    def row(self, width: int) -> CellLine:
        """An empty row."""
        return CellLine(width, self.palette.ground)

    def show(self, frame: Frame) -> None:
        """Draw this frame, unless it looks like the one shown."""
        self.frame = frame
        state = self.state(frame)
        if state != self._shown:
            self._shown = state
            self.redraw()

    def redraw(self) -> None:
        """Make all rows anew and repaint those that differ."""
        size = self.content_size
        if self.frame is not None and size:
            self._replace_rows(self.draw(self.frame, size)[: size.height])

    def _replace_rows(self, rows: list[Strip]) -> None:
        changed = [y for y in range(max(len(rows), len(self._rows))) if _at(rows, y) != _at(self._rows, y)]
        self._rows = rows
        self.repaint(changed)

    def repaint(self, rows: Iterable[int]) -> None:
        """Have these rows shown anew."""
        if regions := [self.across(y) for y in rows]:
            self.refresh(*regions)

    def across(self, y: int) -> Region:
        """A row with its sides: Textual would copy a line to show a part of it."""
        return Region(-self.styles.gutter.left, y, self.outer_size.width, 1)

    def refresh(self, *regions: Region, repaint: bool = True, layout: bool = False, recompose: bool = False) -> Self:
        """Textual's own, noting what it is about: without regions everything may have changed, the frame too."""
        if regions:
            self._changed.update(y for region in regions for y in region.line_range)
        else:
            self._lines = []
        return super().refresh(*regions, repaint=repaint, layout=layout, recompose=recompose)

    def render_lines(self, crop: Region) -> list[Strip]:
        """All lines, or some; only rows that have changed are put together, and the frame is left as it was.

        Textual works out styles, frame and titles for every widget and frame of the screen, changed or not.
        """
        if crop != self.outer_size.region:
            return super().render_lines(crop)
        if not self._lines or crop != self._framed:
            self._lines, self._framed = super().render_lines(crop), crop
            self._sides = self._sides_of(self._lines)
            self._known.clear()
        elif self._changed:
            self._put_together(self._changed)
        self._changed.clear()
        return self._lines

    def _sides_of(self, lines: list[Strip]) -> Sides:
        gutter = self.styles.gutter
        if gutter.height >= len(lines):
            return Sides([], [])
        line = lines[gutter.top]
        return Sides(list(line.crop(0, gutter.left)), list(line.crop(line.cell_length - gutter.right)))

    def _put_together(self, rows: Iterable[int]) -> None:
        """Make these lines; a row that has only moved keeps its line, and what Textual made of it."""
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
        """A row between its sides, after all filters."""
        segments = list(row)
        for each in filters:
            segments = each.apply(segments, background)
        cells = row.cell_length + self.styles.gutter.width
        return Strip([*self._sides.left, *segments, *self._sides.right], cells)

    def render_line(self, y: int) -> Strip:
        """One row, as drawn."""
        if y < len(self._rows):
            return self._rows[y]
        return Strip.blank(self.content_size.width, self.palette.ground)

    def get_line_filters(self) -> Sequence[LineFilter]:
        """All filters but the one that turns ANSI colours into RGB: what is drawn here needs none."""
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
        """Forget what was drawn: size or colours have changed."""
        self._rows = []
        self.redraw()
        self.refresh()


class Panel(FrameWidget, can_focus=True):
    """A drawing in a frame with a title above and a note below."""

    ALLOW_MAXIMIZE = True
    NAME = ""

    def __init__(self, *, id: str) -> None:  # noqa: A002 - Textual's own name
        super().__init__(id=id, classes="panel")
        self._written: tuple[str | None, tuple[Part, ...] | None] = (None, None)
        """Title and note."""
        self._labelled: int | None = None
        """The line of the frame that is being written on."""

    def label(self, title: str = "", *note: Part) -> None:
        """Write `NAME` and `title` into the upper frame line and `note` into the lower one; none of it is markup."""
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
        """As ever, but a label is one new line of the frame: Textual would draw the whole panel anew."""
        if self._labelled is not None and not regions:
            regions = (self.across(self._labelled),)
        return super().refresh(*regions, repaint=repaint, layout=layout, recompose=recompose)

    def notify_style_update(self) -> None:
        self._written = (None, None)
        super().notify_style_update()

    def message(self, width: int, height: int, text: str) -> list[Strip]:
        """One quiet sentence in the middle of the panel, over several rows if need be."""
        ink = self.palette
        rows = [
            self.row(width).to((width - cell_len(line)) // 2).put(line, ink.faint).strip()
            for line in wrapped(text, width)
        ]
        return [self.row(width).strip()] * ((height - len(rows)) // 2) + rows


def _at(rows: list[Strip], y: int) -> Strip | None:
    return rows[y] if y < len(rows) else None
