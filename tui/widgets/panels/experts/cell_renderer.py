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
from moe_watch.tui.drawing.line import CellLine, Part, cells_of
from moe_watch.tui.state.mask_words import OFF
from moe_watch.tui.text.format import NOT_AVAILABLE, number
from moe_watch.tui.widgets.panels.experts.cell_layout import CellLayout
from moe_watch.tui.widgets.panels.experts.colour_scale import Levels
from moe_watch.tui.widgets.panels.experts.cursor import HeatmapCursor

NOTHING = -2
"""Code of a place without a cell. A cell's code is its level, −1 without observations, or one of the next ones."""
NEWEST = HEATMAP_LEVELS
CURSOR = HEATMAP_LEVELS + 1
ALL_OFF = HEATMAP_LEVELS + 2
"""Code of a cell with one expert, which is switched off."""
SOME_OFF = HEATMAP_LEVELS + 4
"""Code of a cell with several experts of which some are off, plus the level of the cell."""
NUMBERED_WIDTH = 5
"""Least width of a cell with its share as a number."""
CODES = SOME_OFF + HEATMAP_LEVELS - NOTHING
LONGEST = 1 << 12
"""Bound of a bar's length in cells, above any terminal's width."""
BARS_KEPT = 4096
SIDE_WIDTH = 9
"""Width of the column with each layer's top expert and its share, right of the cells."""
LEAST_CONTRAST = 60
"""Difference of luminance, of 255, above which dots on a colour are visible."""
HATCH = "╱"
"""Fill of a tile whose expert is off."""
_DOTS = {(True, False): "⠛", (False, True): "⣤", (True, True): "⣿"}
"""Half blocks with experts that are off, by upper and lower half."""
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
    """Values `[L, E]`, shown in percent; None draws no numbers."""
    off: Flags | None
    """Cells with an expert that is off `[bands, columns]`; None if all are on."""
    tops: Sequence[str]
    """Top expert of each layer with its value; empty without values."""
    side_head: str
    """Name of the column of top experts."""
    cursor: HeatmapCursor | None
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
        if self.off is not None:
            codes = np.where(self.off, SOME_OFF + self.cells if layout.binning else np.int16(ALL_OFF), codes)
        if self.cursor is not None and self.cursor.cell is not None:
            codes[self.cursor.cell[0] // layout.layer_bin, self.cursor.cell[1] // layout.expert_bin] = CURSOR
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

    def under_cursor(self, band: int | None) -> int | None:
        """Return the column under the cursor, if the cursor is in this band."""
        cell = None if self.cursor is None else self.cursor.cell
        if cell is None or band != cell[0] // self.layout.layer_bin:
            return None
        return cell[1] // self.layout.expert_bin

    def row_head(self, *bands: int | None) -> int | None:
        """Return the layer (position) under the cursor, if the cursor is on the head of one of these bands."""
        cursor = self.cursor
        if cursor is None or cursor.layer is None or cursor.expert is not None:
            return None
        return cursor.layer if cursor.layer // self.layout.layer_bin in bands else None

    @property
    def column_head(self) -> int | None:
        """Expert under the cursor, if the cursor is on the head of a column."""
        return self.cursor.expert if self.cursor is not None and self.cursor.layer is None else None

    def has_off(self, *bands: int | None) -> bool:
        """Return whether an expert of one of these bands is off."""
        return self.off is not None and any(band is not None and self.off[band].any() for band in bands)


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
        expert = None if content.cursor is None else content.cursor.expert
        cursor = None if expert is None else expert // layout.expert_bin
        for column in range(0, layout.columns, step):
            label = str(column * layout.expert_bin)
            near = cursor is not None and column <= cursor < column + step
            style = ink.accent_bold if near else ink.muted
            if near and content.column_head is not None and cursor is not None:
                column, label, style = cursor, str(content.column_head), ink.chip
            inset = max(0, (layout.cell_width - layout.gap - len(label)) // 2)
            row.to(content.gutter + column * layout.cell_width + inset)
            row.put(label, style)
        if content.side:
            row.to(content.gutter + layout.columns * layout.cell_width).put(content.side_head.rjust(4), ink.faint)
        return row.strip()

    def cells(self, content: HeatmapContent, y: int) -> Strip:
        """Return row `y` of the cells; a blank one below the last band."""
        layout, ink = content.layout, self.ink
        upper, lower = layout.band_at(y), None if layout.rows_per_band else layout.band_at(y, lower=True)
        if upper is None:
            return CellLine(content.width, ink.ground).strip()
        first = y == layout.row_of(upper)
        row = CellLine(content.width, ink.ground)
        self._row_head(row, content, upper, lower, first=first)
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

    def _row_head(self, row: CellLine, content: HeatmapContent, upper: int, lower: int | None, *, first: bool) -> None:
        """Draw the index of a layer, and a sign if some of its experts are off."""
        ink, head = self.ink, content.row_head(upper, lower)
        position = upper * content.layout.layer_bin if head is None else head
        label = f"{content.layer_ids[position] if first else '':>{content.gutter - 1}}"
        at_cursor = content.under_cursor(upper) is not None or content.under_cursor(lower) is not None
        style = ink.chip if head is not None else ink.accent_bold if at_cursor else ink.muted
        style = style if first else ink.muted
        if first and content.has_off(upper, lower):
            row.put(label, style).put(OFF, ink.status.warn)
        elif head is not None and first:
            row.put(label, style).put(" ")
        else:
            row.put(f"{label} ", style)

    def legend(self, content: HeatmapContent, ends: tuple[str, str]) -> Strip:
        """Return the row with the colour ramp and its ends, and with the meanings of the signs that are used."""
        ink = self.ink
        row = CellLine(content.width, ink.ground).put(f"{ends[0]} ", ink.muted)
        if ink.heatmap.glyphs_only:
            for glyph, style in ink.heatmap.glyphs:
                row.put(glyph * 3, style)
        else:
            for level in range(0, HEATMAP_LEVELS, 2):
                row.put("▀", self.style(level, level))
        row.put(f" {ends[1]}", ink.muted)
        signs: list[Part] = []
        if content.off is not None:
            halves = not content.layout.rows_per_band
            some = " some off" if content.layout.binning else " off"
            signs += [("⠛⣤" if halves else OFF, ink.status.warn), (f"{some}  ", ink.muted)]
        if content.lit.any():
            newest = " newest token’s top expert" if content.layout.binning else " newest token"
            signs += [("▀▀", ink.accent), (newest, ink.muted)]
        if cells_of(*signs) + 1 > row.room:
            signs = signs[:2]
        row.right(*signs)
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
            style = Style(color=_contrast(background), bgcolor=background)
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
        off = [False] * layout.columns if content.off is None else content.off[band].tolist()
        cells = zip(content.cells[band].tolist(), content.lit[band].tolist(), off, texts, strict=True)
        sign = OFF if line == (layout.rows_per_band - 1) // 2 else HATCH
        for column, (level, lit, is_off, text) in enumerate(cells):
            if underline:
                self._underline(row, NOTHING if is_off and not layout.binning else level, lit, body)
            elif is_off and layout.binning:
                self._partly_off_tile(row, level, body, marked=column == cursor)
            elif is_off:
                self._off_tile(row, sign, body, marked=column == cursor)
            else:
                self._tile(row, level, lit, text, body, marked=column == cursor, gap=layout.gap)
            if layout.gap:
                row.narrow("▌" if lit and layout.rows_per_band == 1 else " ", self.ink.accent)

    def _underline(self, row: CellLine, level: int, lit: bool, body: int) -> None:
        if self.ink.heatmap.glyphs_only:
            row.put(("━" if lit else " ") * body, self.ink.accent_bold)
        else:
            row.fill("▀", body, self.style(level, NEWEST if lit else NOTHING))

    def _off_tile(self, row: CellLine, sign: str, body: int, *, marked: bool) -> None:
        """Draw a tile whose expert is off: hatched, with a sign in its middle."""
        ink = self.ink
        if marked and sign == OFF:
            row.narrow(f"{f'[{sign}]' if body >= 3 else sign:{HATCH}^{body}}", ink.accent_bold)
            return
        left = (body - 1) // 2
        row.narrow(HATCH * left, ink.faint)
        row.narrow(sign, ink.status.warn if sign == OFF else ink.faint)
        row.narrow(HATCH * (body - 1 - left), ink.faint)

    def _partly_off_tile(self, row: CellLine, level: int, body: int, *, marked: bool) -> None:
        """Draw a tile of several experts of which some are off, on the colour of its level."""
        if self.ink.heatmap.glyphs_only:
            row.narrow(f"{OFF:^{body}}", self.ink.accent_bold if marked else self.ink.status.warn)
        else:
            row.narrow(f"{OFF:^{body}}", self._number_style(CURSOR if marked else level))

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
        top, bottom = (code + NOTHING for code in divmod(pair, CODES))
        if top >= ALL_OFF or bottom >= ALL_OFF:
            return self._dotted(top, bottom, length)
        return Segment("▀" * length, self.style(top, bottom))

    def _dotted(self, top: int, bottom: int, length: int) -> Segment:
        """Return half blocks with experts that are off: dots in their half, on the colour of the other half.

        The dots have the colour of the cell's own level, if several experts have one and it contrasts; otherwise black,
        white or amber.
        """
        off = (top >= ALL_OFF, bottom >= ALL_OFF)
        behind, own = (bottom, top) if off[0] else (top, bottom)
        ground = self._colour(NOTHING if behind == ALL_OFF else behind - SOME_OFF if behind > ALL_OFF else behind)
        dots = None if own == ALL_OFF else self._colour(own - SOME_OFF)
        if dots is None or abs(_luminance(dots) - _luminance(ground)) < LEAST_CONTRAST:
            dots = self.ink.status.warn.color if behind == ALL_OFF else RichColor.parse(_contrast(ground))
        return Segment(_DOTS[off] * length, Style(color=dots, bgcolor=ground))


def _share_texts(content: HeatmapContent, band: int) -> list[str]:
    """Return each expert's value in percent."""
    shares = [] if content.shares is None else content.shares[band].tolist()
    return [NOT_AVAILABLE if isnan(share) else number(100 * share, 0) for share in shares]


def _contrast(background: RichColor | None) -> str:
    """Return black or white, whichever is readable on a colour."""
    return "#000000" if _is_bright(background) else "#ffffff"


def _is_bright(colour: RichColor | None) -> bool:
    return _luminance(colour) > 120


def _luminance(colour: RichColor | None) -> float:
    """Return the luminance of a colour, 0 to 255; 0 if it is the terminal's own."""
    if colour is None or colour.triplet is None:
        return 0.0
    red, green, blue = colour.triplet
    return 0.299 * red + 0.587 * green + 0.114 * blue
