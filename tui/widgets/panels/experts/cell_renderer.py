"""Renderer of the heatmap's rows: tiles with numbers if there is room, half blocks otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import isnan

import numpy as np
from rich.color import Color as RichColor
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from moe_watch.routing.arrays import Flags, Floats, Ints
from moe_watch.tui.drawing.colours import HEATMAP_LEVELS, Palette
from moe_watch.tui.drawing.line import CellLine
from moe_watch.tui.text.format import NOT_AVAILABLE
from moe_watch.tui.widgets.panels.experts.cell_layout import CellLayout
from moe_watch.tui.widgets.panels.experts.colour_scale import Levels

NOTHING = -2
"""Code of a place without a cell. A cell's code is its level, −1 without observations, or one of the next two."""
NEWEST = HEATMAP_LEVELS
CURSOR = HEATMAP_LEVELS + 1
NUMBERED_WIDTH = 5
"""Least width of a cell with its share as a number."""
CODES = CURSOR - NOTHING + 1
LONGEST = 1 << 12
"""Bound of a bar's length in cells, above any terminal's width."""
BARS_KEPT = 4096
SIDE_WIDTH = 9
"""Width of the column with each layer's top expert and its share, right of the cells."""
_HEADER_STEPS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True)
class HeatmapContent:
    """Contents of the heatmap: everything that its rows are drawn from."""

    layout: CellLayout
    cells: Levels
    """Levels `[bands, columns]`."""
    lit: Flags
    """Cells of the newest token `[bands, columns]`."""
    shares: Floats | None
    """Expert usage `[L, E]`; None draws no numbers."""
    cursor: tuple[int, int] | None
    """Layer (position in the model's list) and expert."""
    layer_ids: Sequence[int]
    """Index of each MoE layer in the model."""
    gutter: int
    """Width of the column with the layers' indices, left of the cells."""
    side: bool
    """Each layer's top expert is shown right of its cells."""
    width: int
    """Width in terminal cells."""
    notes: Sequence[int]
    """Rows at the bottom without cells: legend and readout."""

    @property
    def numbered(self) -> bool:
        """Tiles have their share as a number."""
        layout = self.layout
        roomy = layout.cell_width >= NUMBERED_WIDTH and layout.rows_per_band > 0
        return roomy and self.shares is not None and not layout.binning

    @cached_property
    def looks(self) -> Levels:
        """Codes of the half blocks, less `NOTHING`: `[bands, terminal cells]`."""
        layout, newest = self.layout, np.int16(NEWEST)
        codes = self.cells.copy() if layout.gap else np.where(self.lit, newest, self.cells)
        if self.cursor is not None:
            codes[self.cursor[0] // layout.layer_bin, self.cursor[1] // layout.expert_bin] = CURSOR
        looks = np.repeat(codes, layout.cell_width, axis=1)
        if layout.gap:
            looks[:, layout.cell_width - 1 :: layout.cell_width] = np.where(self.lit, newest, np.int16(NOTHING))
        looks -= NOTHING
        return looks

    @cached_property
    def pairs(self) -> Ints:
        """Codes of the upper and the lower half block of each character, as one number: `[rows, terminal cells]`."""
        looks = self.looks.astype(np.int64)
        pairs = looks[0::2] * CODES
        pairs[: len(looks) // 2] += looks[1::2]
        return pairs

    @cached_property
    def tops(self) -> list[str]:
        """Top expert of each layer and its share: `6 38 %`; empty without shares."""
        if self.shares is None:
            return []
        shares = np.where(np.isnan(self.shares), -1.0, self.shares)
        found = zip(shares.argmax(1).tolist(), shares.max(1).tolist(), strict=True)
        return [NOT_AVAILABLE if share < 0 else f"{top} {100 * share:>3.0f} %" for top, share in found]

    def under_cursor(self, band: int | None) -> int | None:
        """Return the column under the cursor, if the cursor is in this band."""
        if self.cursor is None or band != self.cursor[0] // self.layout.layer_bin:
            return None
        return self.cursor[1] // self.layout.expert_bin


class CellRenderer:
    """Renderer of `HeatmapContent` in one palette, with a cache of its styles."""

    def __init__(self, ink: Palette) -> None:
        self.ink = ink
        self._styles: dict[tuple[int, int], Style] = {}
        self._number_styles: dict[int, Style] = {}
        self._bar = lru_cache(maxsize=BARS_KEPT)(self._make_bar)
        """Cache of bars: a heatmap consists of a few hundred different ones."""

    def header(self, content: HeatmapContent) -> Strip:
        """Return the row of expert numbers above their columns, leaving out numbers that do not fit."""
        layout, ink = content.layout, self.ink
        row = CellLine(content.width, ink.ground)
        digits = len(str(layout.experts - 1))
        step = next(step for step in _HEADER_STEPS if step * layout.cell_width > digits)
        cursor = None if content.cursor is None else content.cursor[1] // layout.expert_bin
        for column in range(0, layout.columns, step):
            label = str(column * layout.expert_bin)
            inset = max(0, (layout.cell_width - layout.gap - len(label)) // 2)
            row.to(content.gutter + column * layout.cell_width + inset)
            near = cursor is not None and column <= cursor < column + step
            row.put(label, ink.accent_bold if near else ink.muted)
        if content.side:
            row.to(content.gutter + layout.columns * layout.cell_width).put("top".rjust(4), ink.faint)
        return row.strip()

    def cells(self, content: HeatmapContent, y: int) -> Strip:
        """Return row `y` of the cells; a blank one below the last band."""
        layout, ink = content.layout, self.ink
        upper, lower = layout.band_at(y), None if layout.rows_per_band else layout.band_at(y, lower=True)
        if upper is None:
            return CellLine(content.width, ink.ground).strip()
        first = y == layout.row_of(upper)
        label = str(content.layer_ids[upper * layout.layer_bin]) if first else ""
        at_cursor = content.under_cursor(upper) is not None or content.under_cursor(lower) is not None
        row = CellLine(content.width, ink.ground)
        row.put(f"{label:>{content.gutter - 1}} ", ink.accent_bold if at_cursor and first else ink.muted)
        if layout.rows_per_band:
            self._tiles(row, content, upper, y - layout.row_of(upper))
        else:
            self._halves(row, content.pairs[y])
        if content.side and first:
            row.to(content.gutter + layout.columns * layout.cell_width)
            for band in (upper, lower):
                if band is not None:
                    row.put(content.tops[band].rjust(SIDE_WIDTH), ink.muted)
        return row.strip()

    def legend(self, content: HeatmapContent, scale: float) -> Strip:
        """Return the row with the colour ramp and its end, and with the meaning of the accent if it is used."""
        ink = self.ink
        row = CellLine(content.width, ink.ground).put("0 % ", ink.muted)
        if ink.heatmap.glyphs_only:
            for glyph, style in ink.heatmap.glyphs:
                row.put(glyph * 3, style)
        else:
            for level in range(0, HEATMAP_LEVELS, 2):
                row.put("▀", self.style(level, level))
        more = "≥ " if content.shares is not None and np.nanmax(content.shares, initial=0.0) > scale else ""
        row.put(f" {more}{100 * scale:.3g} % of a layer", ink.muted)
        if content.lit.any():
            newest = " newest token’s top expert" if content.layout.binning else " newest token"
            row.right(("▀▀", ink.accent), (newest, ink.muted))
        return row.strip()

    def style(self, top: int, bottom: int) -> Style:
        """Return the style of a half block with these codes above and below."""
        key = (top, bottom)
        style = self._styles.get(key)
        if style is None:
            style = self._styles[key] = Style(color=self._colour(top), bgcolor=self._colour(bottom))
        return style

    def _colour(self, code: int) -> RichColor | None:
        if code == NEWEST:
            return self.ink.accent.color
        if code == CURSOR:
            return self.ink.text.color
        if code < 0:
            return self.ink.ground.bgcolor if code == NOTHING else self.ink.chart.track.color
        return self.ink.heatmap.ramp[code]

    def _number_style(self, code: int) -> Style:
        """Return the style of text on a cell with this code."""
        style = self._number_styles.get(code)
        if style is None:
            background = self._colour(code)
            style = Style(color="#000000" if _is_bright(background) else "#ffffff", bgcolor=background)
            self._number_styles[code] = style
        return style

    def _tiles(self, row: CellLine, content: HeatmapContent, band: int, line: int) -> None:
        """Draw one row of a band of whole rows. The last of several is half a row, and underlines the newest token."""
        layout = content.layout
        underline = layout.rows_per_band > 1 and line == layout.rows_per_band - 1
        numbered = content.numbered and line == (layout.rows_per_band - 1) // 2
        body = layout.cell_width - layout.gap
        cursor = content.under_cursor(band)
        texts = _share_texts(content, band) if numbered else [""] * layout.columns
        cells = zip(content.cells[band].tolist(), content.lit[band].tolist(), texts, strict=True)
        for column, (level, lit, text) in enumerate(cells):
            if underline:
                self._underline(row, level, lit, body)
            else:
                self._tile(row, level, lit, text, body, marked=column == cursor, gap=layout.gap)
            if layout.gap:
                row.narrow("▌" if lit and layout.rows_per_band == 1 else " ", self.ink.accent)

    def _underline(self, row: CellLine, level: int, lit: bool, body: int) -> None:
        if self.ink.heatmap.glyphs_only:
            row.put(("━" if lit else " ") * body, self.ink.accent_bold)
        else:
            row.fill("▀", body, self.style(level, NEWEST if lit else NOTHING))

    def _tile(self, row: CellLine, level: int, lit: bool, text: str, body: int, *, marked: bool, gap: bool) -> None:
        if level < 0:
            row.put(f"{'·':^{body}}", self.ink.faint)
            return
        if marked and body >= 3:
            text = f"[{text[: body - 2]:^{body - 2}}]"
        if self.ink.heatmap.glyphs_only:
            self._glyphs(row, level, lit and not gap, text, body)
            return
        code = CURSOR if marked and not gap else NEWEST if lit and not gap else level
        row.narrow(f"{text:^{body}}", self._number_style(code))

    def _glyphs(self, row: CellLine, level: int, lit: bool, text: str, body: int) -> None:
        """Draw a tile without colour: its density, then its number."""
        glyph, style = self.ink.heatmap.glyphs[round(level / (HEATMAP_LEVELS - 1) * (len(self.ink.heatmap.glyphs) - 1))]
        row.put(glyph * (body - len(text)), self.ink.accent_bold if lit else style).put(text, self.ink.text)

    def _halves(self, row: CellLine, pairs: Ints) -> None:
        """Draw two bands in one row; equal neighbours are joined."""
        ends = np.concatenate(([-1], np.flatnonzero(pairs[1:] != pairs[:-1]), [len(pairs) - 1]))
        bars = pairs[ends[1:]] * LONGEST + ends[1:] - ends[:-1]
        row.extend([self._bar(bar) for bar in bars.tolist()], len(pairs))

    def _make_bar(self, bar: int) -> Segment:
        """Return the half blocks of `pair × LONGEST + length`."""
        pair, length = divmod(bar, LONGEST)
        top, bottom = divmod(pair, CODES)
        return Segment("▀" * length, self.style(top + NOTHING, bottom + NOTHING))


def _share_texts(content: HeatmapContent, band: int) -> list[str]:
    """Return each expert's share of a layer in percent."""
    shares = [] if content.shares is None else content.shares[band].tolist()
    return [NOT_AVAILABLE if isnan(share) else f"{100 * share:.0f}" for share in shares]


def _is_bright(colour: RichColor | None) -> bool:
    if colour is None or colour.triplet is None:
        return False
    red, green, blue = colour.triplet
    return 0.299 * red + 0.587 * green + 0.114 * blue > 120
