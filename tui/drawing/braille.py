"""Curves in braille dots, and sparklines in blocks.

A character cell holds 2 × 4 dots in one colour; where curves meet in a cell, the last one determines the colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import floor, isnan

import numpy as np
from rich.style import Style

from moe_watch.routing.arrays import Floats, Ints

_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
"""Bit of the dot in column 0 or 1 and row 0..3 of a cell."""
_BLANK = 0x2800
_EIGHTHS = " ▁▂▃▄▅▆▇█"
_TOP_STEPS = 6
"""Eighths used of a sparkline's top row, so that sparklines below each other do not merge."""


class BrailleCanvas:
    """A grid of `width` × `height` character cells that shows a plot area of `x_range` × `y_range`."""

    def __init__(self, width: int, height: int, x_range: tuple[float, float], y_range: tuple[float, float]) -> None:
        self.width = width
        self.height = height
        self._x = x_range
        self._y = y_range
        self._bits = [[0] * width for _ in range(height)]
        self._styles: list[list[Style]] = [[Style.null()] * width for _ in range(height)]

    def dot_x(self, x: float) -> int:
        """Return the dot column of a value."""
        low, high = self._x
        return round((x - low) / (high - low) * (2 * self.width - 1))

    def x_of(self, columns: Ints) -> Floats:
        """Return the values of dot columns."""
        low, high = self._x
        return low + columns.astype(np.float64) * ((high - low) / (2 * self.width - 1))

    def dot_y(self, y: float) -> int:
        """Return the dot row of a value, counted downwards."""
        low, high = self._y
        return round((high - y) / (high - low) * (4 * self.height - 1))

    def dot(self, column: int, row: int, style: Style) -> None:
        """Set one dot; dots outside the canvas are ignored."""
        if 0 <= column < 2 * self.width and 0 <= row < 4 * self.height:
            self._bits[row // 4][column // 2] |= _DOTS[column % 2][row % 4]
            self._styles[row // 4][column // 2] = style

    def is_blank(self, column: int, row: int) -> bool:
        """Return whether the character cell of this dot is empty; cells outside the canvas always are."""
        inside = 0 <= column < 2 * self.width and 0 <= row < 4 * self.height
        return not inside or not self._bits[row // 4][column // 2]

    def line(self, start: tuple[float, float], end: tuple[float, float], style: Style) -> None:
        """Draw a line between two points, given as values."""
        self._join(self._dot_of(start), self._dot_of(end), style)

    def curve(self, points: Sequence[tuple[float, float]], style: Style) -> None:
        """Draw a line through points, given as values; NaN leaves a gap."""
        dots = [None if isnan(point[1]) else self._dot_of(point) for point in points]
        if len(dots) == 1:
            dots *= 2
        for start, end in pairwise(dots):
            if start is not None and end is not None:
                self._join(start, end, style)

    def _dot_of(self, point: tuple[float, float]) -> tuple[int, int]:
        return self.dot_x(point[0]), self.dot_y(point[1])

    def _join(self, start: tuple[int, int], end: tuple[int, int], style: Style) -> None:
        """Set the dots between two dots, each rounded to the nearest."""
        (x, y), across, down = start, end[0] - start[0], end[1] - start[1]
        steps = max(abs(across), abs(down), 1)
        for step in range(steps + 1):
            self.dot(x + _rounded(across * step, steps), y + _rounded(down * step, steps), style)

    def level(self, y: float, style: Style, spacing: int = 4) -> None:
        """Draw a dotted horizontal line at a value."""
        row = self.dot_y(y)
        for column in range(0, 2 * self.width, spacing):
            self.dot(column, row, style)

    def cells(self, row: int) -> dict[int, tuple[str, Style]]:
        """Return the non-empty characters of a row of cells, by column."""
        styles = self._styles[row]
        return {column: (chr(_BLANK + bits), styles[column]) for column, bits in enumerate(self._bits[row]) if bits}


def _rounded(part: int, whole: int) -> int:
    """Return `part / whole` rounded to the nearest integer, halves upwards."""
    return (2 * part + whole) // (2 * whole)


def sparkline(values: Sequence[float], width: int, height: int, low: float, high: float) -> list[str]:
    """Return the last `width` values as bars, right-aligned in `height` rows; missing values are blank."""
    shown = list(values)[-width:] if width > 0 else []
    steps = 8 * (height - 1) + _TOP_STEPS
    bars = [_steps(value, steps, low, high) for value in shown]
    rows = [[min(8, max(0, bar - 8 * below)) for bar in bars] for below in reversed(range(height))]
    return ["".join(_EIGHTHS[eighths] for eighths in row).rjust(max(0, width)) for row in rows]


def _steps(value: float, steps: int, low: float, high: float) -> int:
    if isnan(value):
        return 0
    part = (value - low) / (high - low) if high > low else 0.0
    return 1 + min(steps - 1, max(0, floor(part * steps)))
