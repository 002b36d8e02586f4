"""Which experts a model uses: layers down, experts across, brighter for more; the newest token's experts light up.

This is the one panel in which everything may change with every frame, so it is drawn by hand: cells are
quantised with NumPy, styles are cached, runs of equal cells are one segment, and only rows that differ are
repainted.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import ClassVar

import numpy as np
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.strip import Strip

from moe_watch.routing.arrays import Floats, Ints
from moe_watch.tui.drawing.line import Part
from moe_watch.tui.state.frame import Frame
from moe_watch.tui.state.run import RunView
from moe_watch.tui.state.token_window import experts_of
from moe_watch.tui.text.format import count, percent
from moe_watch.tui.widgets.base import Panel
from moe_watch.tui.widgets.panels.experts.grid import HeatGrid, Levels, nice_scale, quantise
from moe_watch.tui.widgets.panels.experts.painter import SIDE_WIDTH, HeatPainter, HeatPicture

HEADS = 1
"""Rows above the cells."""
LEGEND_HEIGHT = 10
"""Panels this tall have room for a legend."""
LEAST_HEIGHT = 3
"""Panels no taller than this show nothing but cells."""


class ExpertHeatmap(Panel):
    """The heatmap with its heads, its numbers, a cursor, and a line about the cell under it."""

    NAME = "EXPERTS"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "move(0,-1)", show=False),
        Binding("right", "move(0,1)", show=False),
        Binding("up", "move(-1,0)", show=False),
        Binding("down", "move(1,0)", show=False),
    ]

    def __init__(self, *, id: str = "experts") -> None:  # noqa: A002 - Textual's own name
        super().__init__(id=id)
        self.cursor: tuple[int, int] | None = None
        """Layer (position in the model's list) and expert."""
        self.picture: HeatPicture | None = None
        self._levels: Levels | None = None
        self._newest: Ints | None = None
        self._shares: Floats | None = None
        self._scale = 1.0
        self._painter: HeatPainter | None = None
        self._keys: list[bytes] = []
        self._strips: dict[int, Strip] = {}

    def state(self, frame: Frame) -> Hashable:
        return frame.view.runs, frame.view.observed, frame.view.tap_off_at

    def draw(self, frame: Frame, size: Size) -> list[Strip]:  # noqa: ARG002 - `set_levels` needs no frame
        return [self.render_line(y) for y in range(size.height)]

    def redraw(self) -> None:
        view = self.frame.view if self.frame else None
        if view is None or view.window is None or not view.window.tokens:
            if self.frame is not None:
                self._clear()
            return
        self._shares = view.window.usage.shares()
        self._scale = nice_scale(self._shares)
        newest = None if view.newest is None else experts_of(view.newest, len(self._shares))
        self.set_levels(quantise(self._shares, self._scale), newest)
        self._describe(view)

    def set_levels(self, levels: Levels, newest: Ints | None = None) -> None:
        """Show these levels, and repaint the rows that differ.

        Args:
            levels: `[L, E]`, 0 … `palette.HEAT_LEVELS` − 1; −1 where nothing was observed.
            newest: expert ids `[L, k]` of the newest token.
        """
        self._levels, self._newest = levels, newest
        width, height = self.content_size
        if not width or not height:
            return
        before = self.picture
        self.picture = picture = self._picture_of(levels, newest)
        keys = self._keys_of(picture)
        if before is None or before.grid != picture.grid or before.side != picture.side or len(keys) != len(self._keys):
            changed: Iterable[int] = range(height)
        else:
            rows = [HEADS + row for row, key in enumerate(keys) if key != self._keys[row]]
            changed = [*rows, *self._changed_notes(picture)]
        self._keys = keys
        self._repaint(changed)

    def _changed_notes(self, picture: HeatPicture) -> list[int]:
        """Legend and readout, each if it says something new."""
        return [y for y in picture.notes if self._draw_line(y) != self._strips.get(y)]

    def _describe(self, view: RunView) -> None:
        assert self.picture is not None
        binning = self.picture.grid.binning
        self.label(f"{view.window_text} · {binning}" if binning else f"usage, {view.window_text}", *self._note(view))

    def _note(self, view: RunView) -> tuple[Part, ...]:
        """Why nothing new is shown."""
        return ((f" {view.tap_off_text} ", self.palette.warn),) if view.tap_off_text else ()

    def _clear(self) -> None:
        self.picture = self._levels = self._shares = self.cursor = None
        self._keys = []
        self.label("", *(self._note(self.frame.view) if self.frame else ()))
        self._repaint(range(self.content_size.height))

    @property
    def _has_top(self) -> bool:
        """The first of a token's experts is its likeliest: only that one is lit where cells hold several experts."""
        header = self.frame.view.header if self.frame else None
        return header is None or header.is_ordered

    def _repaint(self, rows: Iterable[int]) -> None:
        rows = list(rows)
        for y in rows:
            self._strips.pop(y, None)
        self.repaint(rows)

    def _picture_of(self, levels: Levels, newest: Ints | None) -> HeatPicture:
        layers, experts = levels.shape
        notes = self._notes(layers)
        grid, side = self._fit(layers, experts, len(notes))
        return HeatPicture(
            grid=grid,
            cells=grid.bin(levels),
            lit=grid.selected(newest if self._has_top or not grid.binning else None),
            shares=self._shares,
            cursor=self.cursor,
            layer_ids=self._layer_ids(),
            gutter=self._gutter(),
            side=side,
            width=self.content_size.width,
            notes=notes,
        )

    def _fit(self, layers: int, experts: int, notes: int) -> tuple[HeatGrid, bool]:
        """The grid above so many notes, and whether there is room for the top expert beside it."""
        width, height = self.content_size
        room, rows = width - self._gutter(), max(1, height - HEADS - notes)
        halves = not self.palette.glyphs_only
        side_width = SIDE_WIDTH if rows >= layers or not halves else 2 * SIDE_WIDTH
        beside = HeatGrid.fit(layers, experts, room - side_width, rows, halves=halves)
        if self._shares is not None and not beside.binning and room - side_width >= experts:
            return beside, True
        return HeatGrid.fit(layers, experts, room, rows, halves=halves), False

    def _notes(self, layers: int) -> list[int]:
        """Rows at the bottom that hold no cells: the readout, and the legend unless cells would be smaller for it."""
        height = self.content_size.height
        room, halves = height - HEADS - 1, not self.palette.glyphs_only
        grids = (HeatGrid.fit(layers, 1, 1, rows, halves=halves) for rows in (room, room - 1))
        shapes = {(grid.layer_bin, grid.rows_per_band) for grid in grids}
        if height >= LEGEND_HEIGHT and len(shapes) == 1:
            return [height - 2, height - 1]
        return [height - 1] if height > LEAST_HEIGHT else []

    def _gutter(self) -> int:
        return max(len(str(layer)) for layer in self._layer_ids()) + 1

    def _layer_ids(self) -> Sequence[int]:
        header = self.frame.view.header if self.frame else None
        if header is not None:
            return header.model.layers
        return range(1 if self._levels is None else len(self._levels))

    def _keys_of(self, picture: HeatPicture) -> list[bytes]:
        """Everything that the picture of each row depends on, but for the cursor."""
        tables = [picture.cells, picture.lit]
        if picture.shares is not None and (picture.side or picture.numbered):
            tables.append(np.rint(np.nan_to_num(100 * picture.shares, nan=-1.0)))
        bands = [b"".join([table.tobytes() for table in band]) for band in zip(*tables, strict=True)]
        if picture.grid.rows_per_band:
            return [bands[row // picture.grid.rows_per_band] for row in range(picture.grid.rows)]
        return [b"".join(bands[at : at + 2]) for at in range(0, len(bands), 2)]

    # Drawing

    def render_line(self, y: int) -> Strip:
        strip = self._strips.get(y)
        if strip is None:
            strip = self._strips[y] = self._draw_line(y)
        return strip

    def _draw_line(self, y: int) -> Strip:
        picture = self.picture
        if picture is None:
            return self._draw_empty(y)
        if self._painter is None or self._painter.ink is not self.palette:
            self._painter = HeatPainter(self.palette)
        if y == 0:
            return self._painter.heads(picture)
        if y < HEADS + picture.grid.rows:
            return self._painter.cells(picture, y - HEADS)
        if y in picture.notes:
            return self._draw_readout() if y == picture.notes[-1] else self._painter.legend(picture, self._scale)
        return self.row(picture.width).strip()

    def _draw_empty(self, y: int) -> Strip:
        text = "no token yet" if self.frame is None else self.frame.view.no_token_text
        row = self.row(self.content_size.width)
        if y == self.content_size.height // 2:
            row.to((row.width - len(text)) // 2).put(text, self.palette.faint)
        return row.strip()

    def _draw_readout(self) -> Strip:
        row, ink = self.row(self.content_size.width), self.palette
        at = self.cursor or self._hottest()
        if at is None or self.frame is None or self.frame.view.window is None or self._shares is None:
            return row.strip()
        layer, expert = at
        selections = int(self.frame.view.window.usage.counts[layer].sum())
        share = float(self._shares[layer, expert])
        lift = share * self._shares.shape[1]
        where = f"layer {self._layer_ids()[layer]} · expert {expert}"
        lead = ("▸ ", ink.accent) if self.cursor else ("▴ ", ink.muted)
        numbers, long = f" · {percent(share)} of {count(selections)}", " selections"
        return row.first_that_fits(
            [lead, (where, ink.strong), (numbers + long, ink.text), (f" · {lift:.1f}× the even share", ink.muted)],
            [lead, (where, ink.strong), (numbers + long, ink.text), (f" · {lift:.1f}× even", ink.muted)],
            [lead, (where, ink.strong), (numbers, ink.text), (f" · {lift:.1f}× even", ink.muted)],
        ).strip()

    def _hottest(self) -> tuple[int, int] | None:
        if self._shares is None or np.isnan(self._shares).all():
            return None
        layer, expert = divmod(int(np.nanargmax(self._shares)), self._shares.shape[1])
        return layer, expert

    # The cursor

    def action_move(self, layers: int, experts: int) -> None:
        """Move the cursor by cells."""
        picture = self.picture
        if picture is None or self._levels is None:
            return
        layer, expert = self.cursor or self._hottest() or (0, 0)
        if self.cursor is not None:
            layer += layers * picture.grid.layer_bin
            expert += experts * picture.grid.expert_bin
        self._point_at(layer, expert)

    def _point_at(self, layer: int, expert: int) -> None:
        """Put the cursor on the busiest expert of the cell that holds these."""
        assert self._levels is not None
        assert self.picture is not None
        grid = self.picture.grid
        band = min(max(layer, 0), grid.layers - 1) // grid.layer_bin
        column = min(max(expert, 0), grid.experts - 1) // grid.expert_bin
        rows = slice(band * grid.layer_bin, (band + 1) * grid.layer_bin)
        columns = slice(column * grid.expert_bin, (column + 1) * grid.expert_bin)
        cell = self._levels[rows, columns]
        inner_layer, inner_expert = divmod(int(cell.argmax()), cell.shape[1])
        self._move_cursor((rows.start + inner_layer, columns.start + inner_expert))

    def _move_cursor(self, at: tuple[int, int] | None) -> None:
        if at == self.cursor or self._levels is None:
            return
        self.cursor = at
        self.picture = self._picture_of(self._levels, self._newest)
        self._repaint(range(self.content_size.height))

    def on_mouse_move(self, event: events.MouseMove) -> None:
        self._follow_mouse(event)

    def on_click(self, event: events.Click) -> None:
        self._follow_mouse(event)

    def _follow_mouse(self, event: events.MouseEvent) -> None:
        offset = event.get_content_offset(self)
        picture = self.picture
        if offset is None or picture is None:
            return
        row, column = offset.y - HEADS, (offset.x - picture.gutter) // picture.grid.cell_width
        band = picture.grid.band_at(row) if row >= 0 else None
        if band is not None and offset.x >= picture.gutter and column < picture.grid.columns:
            self._point_at(band * picture.grid.layer_bin, column * picture.grid.expert_bin)

    def on_leave(self) -> None:
        if not self.has_focus:
            self._move_cursor(None)

    def on_blur(self) -> None:
        self._move_cursor(None)

    def redraw_all(self) -> None:
        self._keys = []
        self._strips.clear()
        if self.frame is None and self._levels is not None:
            self.set_levels(self._levels, self._newest)
        super().redraw_all()
