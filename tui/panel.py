"""The base of every drawn panel: rows are made when something changed, and only changed rows are repainted."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Sequence

from rich.cells import cell_len
from rich.text import Text
from textual.app import App
from textual.content import Content
from textual.filter import ANSIToTruecolor, LineFilter
from textual.geometry import Region, Size
from textual.strip import Strip
from textual.widget import Widget

from tui import palette
from tui.frame import Frame
from tui.palette import Palette
from tui.row import Part, Row


class Drawn(Widget):
    """A widget drawn row by row from a `Frame`."""

    def __init__(self, *, id: str, classes: str = "") -> None:  # noqa: A002 - Textual's own name
        super().__init__(id=id, classes=classes)
        self.frame: Frame | None = None
        self._rows: list[Strip] = []
        self._shown: Hashable = None
        self._palette: Palette | None = None

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

    def row(self, width: int) -> Row:
        """An empty row."""
        return Row(width, self.palette.ground)

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
        if changed:
            self.refresh(*(Region(0, y, self.content_size.width, 1) for y in changed))

    def render_line(self, y: int) -> Strip:
        """One row, as drawn."""
        width = self.content_size.width
        return self._rows[y] if y < len(self._rows) else Strip.blank(width, self.palette.ground)

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


class Panel(Drawn, can_focus=True):
    """A drawing in a frame with a title above and a note below."""

    ALLOW_MAXIMIZE = True
    NAME = ""

    def __init__(self, *, id: str) -> None:  # noqa: A002 - Textual's own name
        super().__init__(id=id, classes="panel")
        self._labels: Hashable = None

    def label(self, title: str = "", *note: Part) -> None:
        """Write `NAME` and `title` into the upper frame line and `note` into the lower one; none of it is markup."""
        if (title, note) == self._labels:
            return
        self._labels = (title, note)
        ink = self.palette
        self.border_title = Content.from_rich_text(Text.assemble((self.NAME, ink.strong), (f"  {title}", ink.muted)))
        self.border_subtitle = Content.from_rich_text(Text.assemble(*note))

    def notify_style_update(self) -> None:
        self._labels = None
        super().notify_style_update()

    def message(self, width: int, height: int, text: str) -> list[Strip]:
        """One quiet sentence in the middle of the panel."""
        row = self.row(width)
        row.to((width - cell_len(text)) // 2).words(text, self.palette.faint)
        return [self.row(width).strip()] * ((height - 1) // 2) + [row.strip()]


def _at(rows: list[Strip], y: int) -> Strip | None:
    return rows[y] if y < len(rows) else None
