"""Draws the rows of an expert heatmap: tiles with numbers where there is room, half blocks where there is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from rich.color import Color as RichColor
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from routing.arrays import Floats
from tui.format import NOT_AVAILABLE
from tui.heat_grid import Flags, HeatGrid, Levels
from tui.palette import HEAT_LEVELS, Palette
from tui.row import Row

NOTHING = -2
"""Codes of a cell beside its levels: no cell here; -1 is one in which nothing was observed."""
NEWEST = HEAT_LEVELS
CURSOR = HEAT_LEVELS + 1
NUMBERED_WIDTH = 5
"""Cells this wide carry their share as a number."""
SIDE_WIDTH = 9
"""For the top expert of a layer and its share, right of its cells."""
_HEAD_STEPS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True)
class HeatPicture:
    """What is drawn."""

    grid: HeatGrid
    cells: Levels
    """[bands, columns]"""
    lit: Flags
    """[bands, columns], cells of the newest token."""
    shares: Floats | None
    """[L, E]; None leaves the numbers out."""
    cursor: tuple[int, int] | None
    """Layer (position) and expert."""
    layer_ids: Sequence[int]
    """The model's own index of each layer."""
    gutter: int
    """Cells left of the grid, for the layer's index."""
    side: bool
    """There is room for the top expert beside each layer."""

    @property
    def numbered(self) -> bool:
        """Tiles carry numbers."""
        grid = self.grid
        roomy = grid.cell_width >= NUMBERED_WIDTH and grid.rows_per_band > 0
        return roomy and self.shares is not None and not grid.binning

    def under_cursor(self, band: int | None) -> int | None:
        """The column of this band that is under the cursor."""
        if self.cursor is None or band != self.cursor[0] // self.grid.layer_bin:
            return None
        return self.cursor[1] // self.grid.expert_bin


class HeatPainter:
    """Rows of a `HeatPicture` in one palette; keeps every style it made."""

    def __init__(self, ink: Palette) -> None:
        self.ink = ink
        self._styles: dict[tuple[int, int], Style] = {}
        self._number_styles: dict[int, Style] = {}

    def heads(self, picture: HeatPicture, width: int) -> Strip:
        """Expert numbers above their columns, as many as fit."""
        grid, ink = picture.grid, self.ink
        row = Row(width, ink.ground)
        digits = len(str(grid.experts - 1))
        step = next(step for step in _HEAD_STEPS if step * grid.cell_width > digits)
        cursor = None if picture.cursor is None else picture.cursor[1] // grid.expert_bin
        for column in range(0, grid.columns, step):
            label = str(column * grid.expert_bin)
            inset = max(0, (grid.cell_width - grid.gap - len(label)) // 2)
            row.to(picture.gutter + column * grid.cell_width + inset)
            near = cursor is not None and column <= cursor < column + step
            row.put(label, ink.accent_bold if near else ink.muted)
        if picture.side:
            row.to(picture.gutter + grid.columns * grid.cell_width).put("top".rjust(4), ink.faint)
        return row.strip()

    def cells(self, picture: HeatPicture, width: int, y: int) -> Strip:
        """One row of cells."""
        grid, ink = picture.grid, self.ink
        upper, lower = grid.band_at(y), None if grid.rows_per_band else grid.band_at(y, lower=True)
        assert upper is not None
        first = y == grid.row_of(upper)
        label = str(picture.layer_ids[upper * grid.layer_bin]) if first else ""
        at_cursor = picture.under_cursor(upper) is not None or picture.under_cursor(lower) is not None
        row = Row(width, ink.ground)
        row.put(f"{label:>{picture.gutter - 1}} ", ink.accent_bold if at_cursor and first else ink.muted)
        if grid.rows_per_band:
            self._tiles(row, picture, upper, y - grid.row_of(upper))
        else:
            self._halves(row, picture, upper, lower)
        if picture.side and first:
            sides = [self._top_expert(picture, band) for band in (upper, lower) if band is not None]
            row.to(picture.gutter + grid.columns * grid.cell_width)
            for side in sides:
                row.put(side, ink.muted)
        return row.strip()

    def legend(self, picture: HeatPicture, width: int, scale: float) -> Strip:
        """The ramp with its ends, and what the accent means."""
        ink = self.ink
        row = Row(width, ink.ground).put("0 % ", ink.muted)
        if ink.glyphs_only:
            for glyph, style in ink.glyphs:
                row.put(glyph * 3, style)
        else:
            for level in range(0, HEAT_LEVELS, 2):
                row.put("▀", self.style(level, level))
        more = "≥ " if picture.shares is not None and np.nanmax(picture.shares, initial=0.0) > scale else ""
        row.put(f" {more}{100 * scale:.3g} % of a layer", ink.muted)
        newest = " newest token’s top expert" if picture.grid.binning else " newest token"
        row.right(("▀▀", ink.accent), (newest, ink.muted))
        return row.strip()

    def style(self, top: int, bottom: int) -> Style:
        """Of a half block with these codes above and below."""
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
            return self.ink.ground.bgcolor if code == NOTHING else self.ink.track.color
        return self.ink.heat[code]

    def _number_style(self, code: int) -> Style:
        """Text on a full cell of this code."""
        style = self._number_styles.get(code)
        if style is None:
            background = self._colour(code)
            style = Style(color="#000000" if _is_bright(background) else "#ffffff", bgcolor=background)
            self._number_styles[code] = style
        return style

    def _tiles(self, row: Row, picture: HeatPicture, band: int, line: int) -> None:
        """One line of a band of whole rows; of several, the last one is half a row and the mark of the newest token."""
        grid = picture.grid
        underline = grid.rows_per_band > 1 and line == grid.rows_per_band - 1
        numbered = picture.numbered and line == (grid.rows_per_band - 1) // 2
        body = grid.cell_width - grid.gap
        cursor = picture.under_cursor(band)
        for column in range(grid.columns):
            level, lit = int(picture.cells[band, column]), bool(picture.lit[band, column])
            if underline:
                self._underline(row, level, lit, body)
            else:
                text = _share_text(picture, band, column) if numbered else ""
                self._tile(row, level, lit, text, body, marked=column == cursor, gap=grid.gap)
            if grid.gap:
                row.put("▌" if lit and grid.rows_per_band == 1 else " ", self.ink.accent)

    def _underline(self, row: Row, level: int, lit: bool, body: int) -> None:
        if self.ink.glyphs_only:
            row.put(("━" if lit else " ") * body, self.ink.accent_bold)
        else:
            row.fill("▀", body, self.style(level, NEWEST if lit else NOTHING))

    def _tile(self, row: Row, level: int, lit: bool, text: str, body: int, *, marked: bool, gap: bool) -> None:
        if level < 0:
            row.put(f"{'·':^{body}}", self.ink.faint)
            return
        if marked and body >= 3:
            text = f"[{text[: body - 2]:^{body - 2}}]"
        if self.ink.glyphs_only:
            self._glyphs(row, level, lit and not gap, text, body)
            return
        code = CURSOR if marked and not gap else NEWEST if lit and not gap else level
        row.put(f"{text:^{body}}", self._number_style(code))

    def _glyphs(self, row: Row, level: int, lit: bool, text: str, body: int) -> None:
        """A tile without colour: its density, then its number."""
        glyph, style = self.ink.glyphs[round(level / (HEAT_LEVELS - 1) * (len(self.ink.glyphs) - 1))]
        row.put(glyph * (body - len(text)), self.ink.accent_bold if lit else style).put(text, self.ink.text)

    def _halves(self, row: Row, picture: HeatPicture, upper: int, lower: int | None) -> None:
        """Two bands in one row; cells that look alike are joined."""
        grid = picture.grid
        top, bottom = self._codes(picture, upper).tolist(), self._codes(picture, lower).tolist()
        if grid.gap:
            lit = [picture.lit[upper], np.zeros(grid.columns, bool) if lower is None else picture.lit[lower]]
            for column in range(grid.columns):
                row.fill("▀", grid.cell_width - 1, self.style(top[column], bottom[column]))
                above, below = (NEWEST if flags[column] else NOTHING for flags in lit)
                row.fill("▀", 1, self.style(above, below))
            return
        segments = [
            Segment("▀" * (sum(1 for _ in stretch) * grid.cell_width), self.style(*codes))
            for codes, stretch in groupby(zip(top, bottom, strict=True))
        ]
        row.extend(segments, grid.columns * grid.cell_width)

    def _codes(self, picture: HeatPicture, band: int | None) -> Levels:
        """How each cell of a band looks."""
        if band is None:
            return np.full(picture.grid.columns, NOTHING, np.int16)
        codes: Levels = picture.cells[band]
        if not picture.grid.gap:
            codes = np.where(picture.lit[band], np.int16(NEWEST), codes)
        cursor = picture.under_cursor(band)
        if cursor is not None:
            codes = codes.copy()
            codes[cursor] = CURSOR
        return codes

    def _top_expert(self, picture: HeatPicture, band: int) -> str:
        """`6 38 %`, right-aligned."""
        assert picture.shares is not None
        shares = picture.shares[band]
        if np.isnan(shares).all():
            return NOT_AVAILABLE.rjust(SIDE_WIDTH)
        top = int(np.nanargmax(shares))
        return f"{top} {100 * shares[top]:>3.0f} %".rjust(SIDE_WIDTH)


def _share_text(picture: HeatPicture, band: int, column: int) -> str:
    assert picture.shares is not None
    share = picture.shares[band, column]
    return NOT_AVAILABLE if np.isnan(share) else f"{100 * share:.0f}"


def _is_bright(colour: RichColor | None) -> bool:
    if colour is None or colour.triplet is None:
        return False
    red, green, blue = colour.triplet
    return 0.299 * red + 0.587 * green + 0.114 * blue > 120
