"""Chart of curves in braille, with axis numbers at the left, a dotted grid, labels and symbols."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from math import ceil, floor, log10

import numpy as np
from rich.style import Style
from textual.strip import Strip

from moe_watch.routing.arrays import Floats
from moe_watch.tui.drawing.braille import BrailleCanvas
from moe_watch.tui.drawing.colours import Palette
from moe_watch.tui.drawing.line import CellLine, on
from moe_watch.tui.text.format import number

Cells = dict[int, tuple[str, Style]]
"""A character and its style, by column."""

_GRID_SPACING = 6
_SLACK = 1e-9
"""Rounding tolerance, so that a bound that equals a tick does not move one tick further."""


@dataclass(frozen=True, slots=True)
class ChartAxis:
    """A range that begins and ends at a tick."""

    low: float
    high: float
    step: float

    @classmethod
    def around(cls, values: Sequence[float], *, least: float, most_steps: int) -> ChartAxis:
        """Return an axis that covers `values`, and at least a range of `least`, in steps of 1, 2 or 5 × 10ⁿ.

        It has at most `most_steps` steps, but two are always allowed: a range around zero needs them.
        """
        most_steps = max(2, most_steps)
        low, high = min(values), max(values)
        missing = max(0.0, least - (high - low)) / 2
        low, high = low - missing, high + missing
        for step in _nice_steps((high - low) / most_steps):
            first, last = floor(low / step + _SLACK), ceil(high / step - _SLACK)
            if last - first <= most_steps:
                return cls(first * step, last * step, step)
        raise AssertionError("steps grow without bound, so one of them covers the range")

    @property
    def ticks(self) -> list[float]:
        """Values of all ticks, ascending."""
        return [self.low + at * self.step for at in range(round((self.high - self.low) / self.step) + 1)]

    @property
    def digits(self) -> int:
        """Number of decimals that distinguish neighbouring ticks."""
        return max(0, -floor(log10(self.step) + _SLACK))


class Chart:
    """Plot area with a vertical axis. Curves are drawn on `canvas`, later ones over earlier ones."""

    def __init__(self, ink: Palette, width: int, height: int, x_range: tuple[float, float], axis: ChartAxis) -> None:
        self.ink = ink
        self.width = width
        self.axis = axis
        self.gutter = max(len(number(tick, axis.digits)) for tick in (axis.low, axis.high)) + 1
        self.canvas = BrailleCanvas(max(1, width - self.gutter), max(1, height), x_range, (axis.low, axis.high))
        self._behind: defaultdict[int, Cells] = defaultdict(dict)
        """Labels and lines behind the curves, by row."""
        self._symbols: defaultdict[int, Cells] = defaultdict(dict)
        """Symbols in front of the curves, by row."""
        self._shaded: defaultdict[int, set[int]] = defaultdict(set)
        """Columns with a shaded background, by row."""

    def column(self, x: float) -> int:
        """Return the cell column of a value, from the left of the plot area."""
        return self.canvas.dot_x(x) // 2

    def row_of(self, y: float) -> int:
        """Return the cell row of a value."""
        return self.canvas.dot_y(y) // 4

    def write(self, column: int, row: int, text: str, style: Style) -> None:
        """Write text behind the curves."""
        for offset, character in enumerate(text):
            self._behind[row][column + offset] = (character, style)

    def symbol(self, column: int, row: int, character: str, style: Style) -> None:
        """Draw a character in front of the curves."""
        self._symbols[row][column] = (character, style)

    def symbol_beside(self, column: int, row: int, character: str, style: Style) -> None:
        """Draw a character in front of the curves beside `column`, at the right if no symbol is there."""
        for at in (*range(column + 1, self.canvas.width), *range(column - 1, -1, -1)):
            if at not in self._symbols[row]:
                self.symbol(at, row, character, style)
                return

    def vertical_line(self, x: float, style: Style, character: str = "┊") -> None:
        """Draw a vertical line behind the curves."""
        column = self.column(x)
        for row in range(self.canvas.height):
            self._behind[row][column] = (character, style)

    def band(self, curve: Callable[[Floats], tuple[Floats, Floats]], first: float, last: float) -> None:
        """Shade the area between the bounds of a band, from `first` to `last`; the bounds are dotted in empty cells."""
        columns = np.arange(self.canvas.dot_x(first), self.canvas.dot_x(last) + 1)
        low, high = curve(self.canvas.x_of(columns))
        for column, bottom, top in zip(columns.tolist(), low.tolist(), high.tolist(), strict=True):
            below, above = self.canvas.dot_y(bottom), self.canvas.dot_y(top)
            for row in range(max(0, above // 4), min(self.canvas.height, below // 4 + 1)):
                self._shaded[row].add(column // 2)
            for row in (below, above):
                if column % 2 == 0 and self.canvas.is_blank(column, row):
                    self.canvas.dot(column, row, self.ink.faint)

    def rows(self) -> list[Strip]:
        """Return the rows of the chart."""
        labels = self._labels()
        return [self._row(y, labels.get(y, "")) for y in range(self.canvas.height)]

    def _labels(self) -> dict[int, str]:
        """Return axis numbers by row from the top, except numbers that would touch the one above."""
        labels: dict[int, str] = {}
        for tick in reversed(self.axis.ticks):
            row = self.row_of(tick)
            if not labels or row > max(labels) + 1:
                labels[row] = number(tick, self.axis.digits)
        return labels

    def _row(self, y: int, label: str) -> Strip:
        row = CellLine(self.width, self.ink.ground)
        row.put(f"{label:>{self.gutter - 1}} ", self.ink.muted)
        text, style, end = "", self.ink.faint, 0
        for column, (character, own_style) in self._cells(y, grid=bool(label)):
            text += " " * (column - end)
            end = column + 1
            if own_style is not style and _looks_different(character, own_style, beside=style):
                row.narrow(text, style)
                text, style = "", own_style
            text += character
        return row.narrow(text + " " * (self.canvas.width - end), style).strip()

    def _cells(self, y: int, *, grid: bool) -> list[tuple[int, tuple[str, Style]]]:
        """Return the cells of a row that are not blank, from left to right; all cells if the row has a shade."""
        width, shaded = self.canvas.width, self._shaded[y]
        cells: Cells = dict.fromkeys(range(width), (" ", self.ink.ground)) if shaded else {}
        if grid:
            cells.update(dict.fromkeys(range(0, width, _GRID_SPACING), ("·", self.ink.faint)))
        for layer in (self._behind[y], self.canvas.cells(y), self._symbols[y]):
            cells.update(layer)
        for column in shaded & cells.keys():
            character, style = cells[column]
            cells[column] = (character, on(style, self.ink.chart.shade))
        return sorted((column, cell) for column, cell in cells.items() if 0 <= column < width)


def _looks_different(character: str, style: Style, *, beside: Style) -> bool:
    """Return whether a character looks different in another style; a space only shows its background."""
    return style.bgcolor != beside.bgcolor if character == " " else style != beside


def x_axis_labels(ink: Palette, width: int, start: int, labels: Sequence[tuple[int, str, Style]]) -> Strip:
    """Return a row of labels centred on their columns, `start` cells to the right; of two that collide, the first."""
    cells: dict[int, tuple[str, Style]] = {}
    for column, text, style in labels:
        left = min(max(0, start + column - len(text) // 2), width - len(text))
        if not any(at in cells for at in range(left - 1, left + len(text) + 1)):
            cells.update({left + offset: (character, style) for offset, character in enumerate(text)})
    row = CellLine(width, ink.ground)
    for column in sorted(cells):
        row.to(column).narrow(*cells[column])
    return row.strip()


def _nice_steps(least: float) -> Iterator[float]:
    """Yield 1, 2 and 5 × 10ⁿ from `least` upwards."""
    power = floor(log10(least))
    for exponent in count(power):
        for factor in (1, 2, 5):
            if factor * 10.0**exponent >= least * (1 - _SLACK):
                yield factor * 10.0**exponent
