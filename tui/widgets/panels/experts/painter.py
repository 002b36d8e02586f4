"""Draws the rows of an expert heatmap: tiles with numbers where there is room, half blocks where there is not."""

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
from moe_watch.tui.drawing.colours import HEAT_LEVELS, Palette
from moe_watch.tui.drawing.line import CellLine
from moe_watch.tui.text.format import NOT_AVAILABLE
from moe_watch.tui.widgets.panels.experts.grid import HeatGrid, Levels

NOTHING = -2
"""Codes of a cell beside its levels: no cell here; -1 is one in which nothing was observed."""
NEWEST = HEAT_LEVELS
CURSOR = HEAT_LEVELS + 1
NUMBERED_WIDTH = 5
"""Cells this wide carry their share as a number."""
CODES = CURSOR - NOTHING + 1
LONGEST = 1 << 12
"""More cells than a bar can have."""
BARS_KEPT = 4096
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
    width: int
    """Cells of the terminal."""
    notes: Sequence[int]
    """Rows at the bottom that hold no cells."""

    @property
    def numbered(self) -> bool:
        """Tiles carry numbers."""
        grid = self.grid
        roomy = grid.cell_width >= NUMBERED_WIDTH and grid.rows_per_band > 0
        return roomy and self.shares is not None and not grid.binning

    @cached_property
    def looks(self) -> Levels:
        """How every character of half rows looks, as codes counted from `NOTHING`: [bands, cells of the terminal]."""
        grid, newest = self.grid, np.int16(NEWEST)
        codes = self.cells.copy() if grid.gap else np.where(self.lit, newest, self.cells)
        if self.cursor is not None:
            codes[self.cursor[0] // grid.layer_bin, self.cursor[1] // grid.expert_bin] = CURSOR
        looks = np.repeat(codes, grid.cell_width, axis=1)
        if grid.gap:
            looks[:, grid.cell_width - 1 :: grid.cell_width] = np.where(self.lit, newest, np.int16(NOTHING))
        looks -= NOTHING
        return looks

    @cached_property
    def pairs(self) -> Ints:
        """Two bands in one row: how each of its half blocks looks, as one number [rows, cells of the terminal]."""
        looks = self.looks.astype(np.int64)
        pairs = looks[0::2] * CODES
        pairs[: len(looks) // 2] += looks[1::2]
        return pairs

    @cached_property
    def tops(self) -> list[str]:
        """The top expert of each layer and its share: `6 38 %`."""
        assert self.shares is not None
        shares = np.where(np.isnan(self.shares), -1.0, self.shares)
        found = zip(shares.argmax(1).tolist(), shares.max(1).tolist(), strict=True)
        return [NOT_AVAILABLE if share < 0 else f"{top} {100 * share:>3.0f} %" for top, share in found]

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
        self._bar = lru_cache(maxsize=BARS_KEPT)(self._make_bar)
        """The few hundred bars that a picture is made of, again and again."""

    def heads(self, picture: HeatPicture) -> Strip:
        """Expert numbers above their columns, as many as fit."""
        grid, ink = picture.grid, self.ink
        row = CellLine(picture.width, ink.ground)
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

    def cells(self, picture: HeatPicture, y: int) -> Strip:
        """One row of cells."""
        grid, ink = picture.grid, self.ink
        upper, lower = grid.band_at(y), None if grid.rows_per_band else grid.band_at(y, lower=True)
        assert upper is not None
        first = y == grid.row_of(upper)
        label = str(picture.layer_ids[upper * grid.layer_bin]) if first else ""
        at_cursor = picture.under_cursor(upper) is not None or picture.under_cursor(lower) is not None
        row = CellLine(picture.width, ink.ground)
        row.put(f"{label:>{picture.gutter - 1}} ", ink.accent_bold if at_cursor and first else ink.muted)
        if grid.rows_per_band:
            self._tiles(row, picture, upper, y - grid.row_of(upper))
        else:
            self._halves(row, picture.pairs[y])
        if picture.side and first:
            row.to(picture.gutter + grid.columns * grid.cell_width)
            for band in (upper, lower):
                if band is not None:
                    row.put(picture.tops[band].rjust(SIDE_WIDTH), ink.muted)
        return row.strip()

    def legend(self, picture: HeatPicture, scale: float) -> Strip:
        """The ramp with its ends, and what the accent means where there is any."""
        ink = self.ink
        row = CellLine(picture.width, ink.ground).put("0 % ", ink.muted)
        if ink.glyphs_only:
            for glyph, style in ink.glyphs:
                row.put(glyph * 3, style)
        else:
            for level in range(0, HEAT_LEVELS, 2):
                row.put("▀", self.style(level, level))
        more = "≥ " if picture.shares is not None and np.nanmax(picture.shares, initial=0.0) > scale else ""
        row.put(f" {more}{100 * scale:.3g} % of a layer", ink.muted)
        if picture.lit.any():
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

    def _tiles(self, row: CellLine, picture: HeatPicture, band: int, line: int) -> None:
        """One line of a band of whole rows; of several, the last one is half a row and the mark of the newest token."""
        grid = picture.grid
        underline = grid.rows_per_band > 1 and line == grid.rows_per_band - 1
        numbered = picture.numbered and line == (grid.rows_per_band - 1) // 2
        body = grid.cell_width - grid.gap
        cursor = picture.under_cursor(band)
        texts = _share_texts(picture, band) if numbered else [""] * grid.columns
        cells = zip(picture.cells[band].tolist(), picture.lit[band].tolist(), texts, strict=True)
        for column, (level, lit, text) in enumerate(cells):
            if underline:
                self._underline(row, level, lit, body)
            else:
                self._tile(row, level, lit, text, body, marked=column == cursor, gap=grid.gap)
            if grid.gap:
                row.narrow("▌" if lit and grid.rows_per_band == 1 else " ", self.ink.accent)

    def _underline(self, row: CellLine, level: int, lit: bool, body: int) -> None:
        if self.ink.glyphs_only:
            row.put(("━" if lit else " ") * body, self.ink.accent_bold)
        else:
            row.fill("▀", body, self.style(level, NEWEST if lit else NOTHING))

    def _tile(self, row: CellLine, level: int, lit: bool, text: str, body: int, *, marked: bool, gap: bool) -> None:
        if level < 0:
            row.put(f"{'·':^{body}}", self.ink.faint)
            return
        if marked and body >= 3:
            text = f"[{text[: body - 2]:^{body - 2}}]"
        if self.ink.glyphs_only:
            self._glyphs(row, level, lit and not gap, text, body)
            return
        code = CURSOR if marked and not gap else NEWEST if lit and not gap else level
        row.narrow(f"{text:^{body}}", self._number_style(code))

    def _glyphs(self, row: CellLine, level: int, lit: bool, text: str, body: int) -> None:
        """A tile without colour: its density, then its number."""
        glyph, style = self.ink.glyphs[round(level / (HEAT_LEVELS - 1) * (len(self.ink.glyphs) - 1))]
        row.put(glyph * (body - len(text)), self.ink.accent_bold if lit else style).put(text, self.ink.text)

    def _halves(self, row: CellLine, pairs: Ints) -> None:
        """Two bands in one row; cells that look alike are joined."""
        ends = np.concatenate(([-1], np.flatnonzero(pairs[1:] != pairs[:-1]), [len(pairs) - 1]))
        bars = pairs[ends[1:]] * LONGEST + ends[1:] - ends[:-1]
        row.extend([self._bar(bar) for bar in bars.tolist()], len(pairs))

    def _make_bar(self, bar: int) -> Segment:
        """Half blocks of two codes, as many as the remainder says."""
        pair, length = divmod(bar, LONGEST)
        top, bottom = divmod(pair, CODES)
        return Segment("▀" * length, self.style(top + NOTHING, bottom + NOTHING))


def _share_texts(picture: HeatPicture, band: int) -> list[str]:
    """Every expert's share of a layer in percent."""
    assert picture.shares is not None
    shares = picture.shares[band].tolist()
    return [NOT_AVAILABLE if isnan(share) else f"{100 * share:.0f}" for share in shares]


def _is_bright(colour: RichColor | None) -> bool:
    if colour is None or colour.triplet is None:
        return False
    red, green, blue = colour.triplet
    return 0.299 * red + 0.587 * green + 0.114 * blue > 120
