"""Panel of expert usage: layers down, experts across, brighter for more usage, the newest token's experts highlighted.

All of this panel may change with every frame, so it bypasses Textual's rendering: NumPy computes the levels of cells,
styles are cached, equal neighbouring cells are one segment, and only rows that differ are repainted.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import ClassVar

import numpy as np
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.strip import Strip

from moe_watch.routing.arrays import Flags, Ints
from moe_watch.tui.drawing.line import Part
from moe_watch.tui.state.expert_numbers import expert_ids
from moe_watch.tui.state.frame import Frame
from moe_watch.tui.state.mask_words import OFF, off_text
from moe_watch.tui.state.run import RunView
from moe_watch.tui.state.tokens.token_window import experts_of
from moe_watch.tui.widgets.frame_widget import Panel
from moe_watch.tui.widgets.panels.experts.cell_layout import CellLayout
from moe_watch.tui.widgets.panels.experts.cell_renderer import SIDE_WIDTH, CellRenderer, HeatmapContent
from moe_watch.tui.widgets.panels.experts.colour_scale import Levels, heatmap_levels
from moe_watch.tui.widgets.panels.experts.cursor import HeatmapCursor
from moe_watch.tui.widgets.panels.experts.heatmap_values import HeatmapValues, QuantityName, known_quantities, values_of
from moe_watch.tui.widgets.panels.experts.readout import readout

HEADER_ROWS = 1
"""Rows above the cells."""
NO_EXPERTS = "no MoE layers: this model is dense, every token passes through all of its weights"
LEGEND_HEIGHT = 10
"""Least height of a panel with a legend."""
LEAST_HEIGHT = 3
"""Largest height of a panel that shows only cells."""


class ExpertHeatmap(Panel):
    """Heatmap with expert numbers, shares, a cursor, and a readout of the cell under it."""

    NAME = "EXPERTS"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "move(0,-1)", show=False),
        Binding("right", "move(0,1)", show=False),
        Binding("up", "move(-1,0)", show=False),
        Binding("down", "move(1,0)", show=False),
    ]

    def __init__(self, *, id: str = "experts") -> None:  # noqa: A002 - the name that Textual uses
        super().__init__(id=id)
        self.cursor: HeatmapCursor | None = None
        self.quantity: QuantityName = "usage"
        """Quantity that the user has chosen."""
        self.original = False
        """Experts of a pruned model have their numbers in the whole model."""
        self.content: HeatmapContent | None = None
        self._levels: Levels | None = None
        self._newest: Ints | None = None
        self._shown_values: HeatmapValues | None = None
        self._renderer: CellRenderer | None = None
        self._keys: list[bytes] = []
        self._strips: dict[int, Strip] = {}

    def state(self, frame: Frame) -> Hashable:
        view = frame.view
        return view.runs, view.observed, view.tap_off_at, str(view.mask), id(frame.importance)

    def draw(self, frame: Frame, size: Size) -> list[Strip]:  # noqa: ARG002 - `set_levels` needs no frame
        return [self.render_line(y) for y in range(size.height)]

    def redraw(self) -> None:
        frame = self.frame
        if frame is None:
            return
        view, shown = frame.view, values_of(frame, self._kind(frame))
        if shown is None or view.is_dense or not shown.values.size:
            self._clear()
            return
        self._shown_values = shown
        newest = None if view.newest is None else experts_of(view.newest, len(shown.values))
        self.set_levels(heatmap_levels(np.maximum(shown.values, 0.0), shown.scale), newest)
        if self.content is not None:
            self._describe(view, shown, self.content.layout.binning)

    def _kind(self, frame: Frame) -> QuantityName:
        """Return the chosen quantity, or usage if it is not known for this run."""
        return self.quantity if self.quantity in known_quantities(frame) else "usage"

    def next_quantity(self) -> bool:
        """Show the next known quantity; return False if only usage is known."""
        kinds = known_quantities(self.frame) if self.frame is not None else []
        if len(kinds) < 2 or self.frame is None:
            return False
        self.quantity = kinds[(kinds.index(self._kind(self.frame)) + 1) % len(kinds)]
        self.redraw_all()
        return True

    def toggle_original(self) -> None:
        """Show the numbers of a pruned model's experts in the whole model, or those in its file."""
        self.original = not self.original
        self.redraw_all()

    def set_levels(self, levels: Levels, newest: Ints | None = None) -> None:
        """Show these levels, and repaint the rows that differ.

        Args:
            levels: `[L, E]`, 0 … `HEATMAP_LEVELS` − 1; −1 without observations.
            newest: expert ids `[L, k]` of the newest token.
        """
        self._levels, self._newest = levels, newest
        width, height = self.content_size
        if not width or not height:
            return
        before = self.content
        self.content = content = self._content_for(levels, newest)
        keys = self._keys_of(content)
        if (
            before is None
            or before.layout != content.layout
            or before.side != content.side
            or len(keys) != len(self._keys)
        ):
            changed: Iterable[int] = range(height)
        else:
            rows = [HEADER_ROWS + row for row, key in enumerate(keys) if key != self._keys[row]]
            changed = [*rows, *self._changed_notes(content)]
        self._keys = keys
        self._repaint(changed)

    def _changed_notes(self, content: HeatmapContent) -> list[int]:
        """Return the rows of legend and readout that have changed."""
        return [y for y in content.notes if self._draw_line(y) != self._strips.get(y)]

    def _describe(self, view: RunView, shown: HeatmapValues, binning: str) -> None:
        plain = shown.quantity == "usage"
        if not binning:
            self.label(shown.title, *self._note(view))
        else:
            self.label(f"{view.window_text if plain else shown.title} · {binning}", *self._note(view))

    def _note(self, view: RunView) -> tuple[Part, ...]:
        """Return the reason why nothing new is shown, the number of experts that are off, and the numbering."""
        warn, parts = self.palette.status.warn, []
        if view.tap_off_text:
            parts.append((f" {view.tap_off_text} ", warn))
        if view.mask:
            parts.append((f" {OFF} {off_text(view.mask)} ", warn))
        if self._names is not None:
            parts.append((" numbers of the whole model ", self.palette.muted))
        return tuple(parts)

    @property
    def _names(self) -> list[list[int]] | None:
        """Numbers of a pruned model's experts in the whole model, if they are asked for."""
        header = self.frame.view.header if self.frame else None
        return None if header is None or not self.original else expert_ids(header.model)

    def _clear(self) -> None:
        self.content = self._levels = self._shown_values = self.cursor = None
        self._keys = []
        self.label("", *(self._note(self.frame.view) if self.frame else ()))
        self._repaint(range(self.content_size.height))

    @property
    def _has_top(self) -> bool:
        """The first of a token's experts is its likeliest, and the only one highlighted in cells of several experts."""
        header = self.frame.view.header if self.frame else None
        return header is None or header.is_ordered

    def _repaint(self, rows: Iterable[int]) -> None:
        rows = list(rows)
        for y in rows:
            self._strips.pop(y, None)
        self.repaint(rows)

    def _content_for(self, levels: Levels, newest: Ints | None) -> HeatmapContent:
        layers, experts = levels.shape
        notes = self._notes(layers)
        layout, side = self._fit(layers, experts, len(notes))
        return HeatmapContent(
            layout=layout,
            cells=layout.bin(levels),
            lit=layout.selected(newest if self._has_top or not layout.binning else None),
            shares=None if self._shown_values is None else self._shown_values.values,
            off=self._off(layout),
            tops=self._shown_values.tops(self._names) if side and self._shown_values is not None else [],
            side_head="top" if self._names is None else "orig",
            cursor=self.cursor,
            layer_ids=self._layer_ids(),
            gutter=self._gutter(),
            side=side,
            width=self.content_size.width,
            notes=notes,
        )

    def _off(self, layout: CellLayout) -> Flags | None:
        """Return the cells with an expert that is off; None if all are on."""
        view = self.frame.view if self.frame else None
        if view is None or view.header is None or not view.mask:
            return None
        positions = {layer: at for at, layer in enumerate(view.header.model.layers)}
        flags = np.zeros((layout.bands, layout.columns), np.bool_)
        for layer, expert in view.mask.pairs:
            if layer in positions and expert < layout.experts:
                flags[positions[layer] // layout.layer_bin, expert // layout.expert_bin] = True
        return flags if flags.any() else None

    def _fit(self, layers: int, experts: int, notes: int) -> tuple[CellLayout, bool]:
        """Return the layout above this number of notes, and whether there is room for the top expert beside it."""
        width, height = self.content_size
        room, rows = width - self._gutter(), max(1, height - HEADER_ROWS - notes)
        halves = not self.palette.heatmap.glyphs_only
        side_width = SIDE_WIDTH if rows >= layers or not halves else 2 * SIDE_WIDTH
        beside = CellLayout.fit(layers, experts, room - side_width, rows, halves=halves)
        if self._shown_values is not None and not beside.binning and room - side_width >= experts:
            return beside, True
        return CellLayout.fit(layers, experts, room, rows, halves=halves), False

    def _notes(self, layers: int) -> list[int]:
        """Return the rows at the bottom without cells: the readout, and the legend unless it would shrink the cells."""
        height = self.content_size.height
        room, halves = height - HEADER_ROWS - 1, not self.palette.heatmap.glyphs_only
        layouts = (CellLayout.fit(layers, 1, 1, rows, halves=halves) for rows in (room, room - 1))
        shapes = {(layout.layer_bin, layout.rows_per_band) for layout in layouts}
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

    def _keys_of(self, content: HeatmapContent) -> list[bytes]:
        """Return one key per row of everything that its drawing depends on, except the cursor."""
        tables = [content.cells, content.lit]
        if content.off is not None:
            tables.append(content.off)
        if content.shares is not None and (content.side or content.numbered):
            tables.append(np.rint(np.nan_to_num(100 * content.shares, nan=-1.0)))
        bands = [b"".join([table.tobytes() for table in band]) for band in zip(*tables, strict=True)]
        if content.layout.rows_per_band:
            return [bands[row // content.layout.rows_per_band] for row in range(content.layout.rows)]
        return [b"".join(bands[at : at + 2]) for at in range(0, len(bands), 2)]

    # Drawing

    def render_line(self, y: int) -> Strip:
        strip = self._strips.get(y)
        if strip is None:
            strip = self._strips[y] = self._draw_line(y)
        return strip

    def _draw_line(self, y: int) -> Strip:
        content = self.content
        if content is None:
            return self._draw_empty(y)
        if self._renderer is None or self._renderer.ink is not self.palette:
            self._renderer = CellRenderer(self.palette)
        if y == 0:
            return self._renderer.header(content)
        if y < HEADER_ROWS + content.layout.rows:
            return self._renderer.cells(content, y - HEADER_ROWS)
        if y in content.notes:
            return self._draw_readout() if y == content.notes[-1] else self._renderer.legend(content, self._ends)
        return self.row(content.width).strip()

    def _draw_empty(self, y: int) -> Strip:
        if self.frame is not None and self.frame.view.is_dense:
            rows = self.message(*self.content_size, NO_EXPERTS)
            return rows[y] if y < len(rows) else self.row(self.content_size.width).strip()
        text = "no token yet" if self.frame is None else self.frame.view.no_token_text
        row = self.row(self.content_size.width)
        if y == self.content_size.height // 2:
            row.to((row.width - len(text)) // 2).put(text, self.palette.faint)
        return row.strip()

    @property
    def _ends(self) -> tuple[str, str]:
        return ("", "") if self._shown_values is None else self._shown_values.ends

    def _draw_readout(self) -> Strip:
        row = self.row(self.content_size.width)
        at = self.cursor or self._busiest()
        if at is None or self.frame is None or self._shown_values is None:
            return row.strip()
        return readout(row, self.palette, self.frame, self._shown_values, at, pointed=self.cursor is not None).strip()

    def _busiest(self) -> HeatmapCursor | None:
        if self._shown_values is None or np.isnan(self._shown_values.values).all():
            return None
        layer, expert = divmod(int(np.nanargmax(self._shown_values.values)), self._shown_values.values.shape[1])
        return HeatmapCursor(layer, expert)

    # The cursor

    def action_move(self, layers: int, experts: int) -> None:
        """Move the cursor by cells, and over the heads of rows and columns one by one."""
        content = self.content
        if content is None or self._levels is None:
            return
        if self.cursor is None:
            self.point_at_busiest()
        elif (head := self.cursor.on_head(layers, experts, self._levels.shape)) is not None:
            self._move_cursor(head)
        elif (cell := self.cursor.cell) is None:
            self._point_at(self.cursor.layer or 0, self.cursor.expert or 0)
        else:
            layer = cell[0] + layers * content.layout.layer_bin
            expert = cell[1] + experts * content.layout.expert_bin
            if layer < 0 or expert < 0:
                self._move_cursor(HeatmapCursor(None if layer < 0 else layer, None if expert < 0 else expert))
            else:
                self._point_at(layer, expert)

    def point_at_busiest(self) -> None:
        """Move the cursor to the cell with the highest value."""
        busiest = self._busiest()
        self._point_at(*((0, 0) if busiest is None or busiest.cell is None else busiest.cell))

    def go_to(self, layer: int) -> None:
        """Move the cursor to the head of a layer, by its position."""
        if self._levels is not None and layer < len(self._levels):
            self._move_cursor(HeatmapCursor(layer, None))

    def _point_at(self, layer: int, expert: int) -> None:
        """Move the cursor to the busiest expert of the cell that holds this layer and expert."""
        if self._levels is None or self.content is None:
            return
        layout = self.content.layout
        band = min(max(layer, 0), layout.layers - 1) // layout.layer_bin
        column = min(max(expert, 0), layout.experts - 1) // layout.expert_bin
        rows = slice(band * layout.layer_bin, (band + 1) * layout.layer_bin)
        columns = slice(column * layout.expert_bin, (column + 1) * layout.expert_bin)
        cell = self._levels[rows, columns]
        inner_layer, inner_expert = divmod(int(cell.argmax()), cell.shape[1])
        self._move_cursor(HeatmapCursor(rows.start + inner_layer, columns.start + inner_expert))

    def _move_cursor(self, at: HeatmapCursor | None) -> None:
        if at == self.cursor or self._levels is None:
            return
        self.cursor = at
        self.content = self._content_for(self._levels, self._newest)
        self._repaint(range(self.content_size.height))

    def on_mouse_move(self, event: events.MouseMove) -> None:
        self._follow_mouse(event)

    def on_click(self, event: events.Click) -> None:
        self._follow_mouse(event)

    def _follow_mouse(self, event: events.MouseEvent) -> None:
        offset = event.get_content_offset(self)
        content = self.content
        if offset is None or content is None:
            return
        layout = content.layout
        row, column = offset.y - HEADER_ROWS, (offset.x - content.gutter) // layout.cell_width
        band = layout.band_at(row) if row >= 0 else None
        inside = offset.x >= content.gutter and column < layout.columns
        if band is not None and inside:
            self._point_at(band * layout.layer_bin, column * layout.expert_bin)
        elif band is not None and offset.x < content.gutter:
            self._move_cursor(HeatmapCursor(band * layout.layer_bin, None))
        elif row < 0 and inside:
            self._move_cursor(HeatmapCursor(None, column * layout.expert_bin))

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
