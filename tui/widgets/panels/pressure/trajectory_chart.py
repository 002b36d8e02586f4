"""Chart of a pressure trajectory: its curves, the fitted curve, injections and fresh contexts."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import cast

import numpy as np
from textual.strip import Strip

from moe_watch.routing.events import Chunk, Pressures
from moe_watch.routing.half_life.fit import Fit
from moe_watch.routing.pressure.formulas import WARM_UP_CHUNKS
from moe_watch.tui.drawing.chart import Chart, ChartAxis, x_axis_labels
from moe_watch.tui.drawing.colours import Palette
from moe_watch.tui.state.mask_words import OFF
from moe_watch.tui.state.pressure.trajectory import PressureTrack
from moe_watch.tui.text.format import number

SLOW_SETTLES = 1500
"""Number of a context's tokens that the slow average needs; P_slow is grey before."""
LEAST_SPAN = 0.1
"""The chart never magnifies noise beyond this range of pressure."""
SIGNS = {"mid": "●", "fast": "f", "slow": "s", "net": "n"}
"""Symbols at the newest end of a curve, and before its name: colours alone would not distinguish the curves."""
INJECTION_LINES = 6
"""Number of injections, and of changes of the mask, the newest ones, that have a full line and a label."""
RESTART_ROOM = 4
"""Columns per fresh context, on average, below which a short line at the bottom marks a fresh context."""
_SHORT_LINE = "╵"
_CLIFF = "╎"
_RESTART = "│"
_FIRST_X = 2 * WARM_UP_CHUNKS


class PressureChart:
    """Chart of one trajectory.

    Args:
        ink: palette.
        track: trajectory; at least one chunk has pressures.
        fit: fit of the trajectory, if there is one.
        limits: lowest and highest P_mid that the mode can have.
        half: half of the start that the verdict is about.
        names: pressures to draw, `mid` first.
    """

    def __init__(
        self,
        ink: Palette,
        track: PressureTrack,
        fit: Fit | None,
        limits: tuple[float, float] | None,
        half: float | None,
        names: Sequence[str],
    ) -> None:
        self.ink = ink
        self.track = track
        self.fit = fit
        self.limits = limits
        self.half = half
        self._begins = [restart.chunk for restart in track.restarts]
        self.names = names
        self.first = track.chunks[0].index
        self.last = self.first + _nice_extent(track.chunks[-1].index - self.first + 1)

    def draw(self, width: int, height: int) -> list[Strip]:
        """Return the chart and its row of chunk numbers, `height` rows in total."""
        known = [chunk.pressures for chunk in self.track.chunks if chunk.pressures]
        values = [value_of(pressures, name) for pressures in known for name in self.names]
        axis = ChartAxis.around(values, least=LEAST_SPAN, most_steps=max(2, min(8, (height - 3) // 2)))
        chart = Chart(self.ink, width, height - 1, (self.first, self.last), axis)
        self._draw_restarts(chart)
        self._draw_injections(chart)
        self._draw_mask_changes(chart)
        self._draw_cliff(chart)
        self._draw_levels(chart)
        self._draw_half_below(chart)
        self._draw_warm_up(chart)
        dense = self.last - self.first > chart.canvas.width
        if not dense:
            self._draw_fit(chart)
        for name in reversed(self.names):
            self._draw_curve(chart, self.track.chunks, name)
        if dense:  # a dense trajectory would hide the fitted curve
            self._draw_fit(chart)
        if self.fit is not None:
            chart.band(self.fit.band, max(self.fit.first, self.first), self._fit_ends)
        self._draw_symbols(chart)
        return [*chart.rows(), self._x_axis(chart)]

    @property
    def _fit_ends(self) -> int:
        """Last chunk that the fit applies to: the end of its context."""
        fit = self.fit
        ends = [] if fit is None else [chunk for chunk in self._begins if chunk > fit.first]
        return min([*ends, self.last])

    def _draw_restarts(self, chart: Chart) -> None:
        """Draw a line where a fresh context begins: the series before and after it are separate.

        After hours there may be one in every column; full lines would then hide the curves.
        """
        starts = {chart.column(chunk - 0.5): chunk - 0.5 for chunk in self._begins if self.first < chunk <= self.last}
        sparse = len(starts) * RESTART_ROOM <= chart.canvas.width
        for column, x in starts.items():
            if sparse:
                chart.vertical_line(x, self.ink.muted, _RESTART)
            else:
                chart.write(column, chart.canvas.height - 1, _SHORT_LINE, self.ink.muted)

    def _draw_injections(self, chart: Chart) -> None:
        """Draw full lines for the newest injections, and short ones for earlier ones, which may be one per chunk."""
        shown = [injection.chunk - 0.5 for injection in self.track.injections.points if injection.chunk >= self.first]
        for x in shown[:-INJECTION_LINES]:
            chart.write(chart.column(x), chart.canvas.height - 1, _SHORT_LINE, self.ink.accent)
        for x in shown[-INJECTION_LINES:]:
            chart.vertical_line(x, self.ink.accent)

    def _draw_mask_changes(self, chart: Chart) -> None:
        """Draw full lines for the newest changes of the mask, and short ones for earlier ones."""
        shown = [change.chunk - 0.5 for change in self.track.mask_changes.points if change.chunk >= self.first]
        for x in shown[:-INJECTION_LINES]:
            chart.write(chart.column(x), chart.canvas.height - 1, _SHORT_LINE, self.ink.status.warn)
        for x in shown[-INJECTION_LINES:]:
            chart.vertical_line(x, self.ink.status.warn)

    @property
    def _cliff(self) -> int | None:
        """First chunk at the new level, if the fitted curve is a cliff."""
        if self.fit is None or self.fit.chosen.shape != "cliff":
            return None
        return self.fit.first + round(self.fit.chosen.parameters["at"])

    def _draw_cliff(self, chart: Chart) -> None:
        if self._cliff is not None and self._cliff >= self.first:
            chart.vertical_line(self._cliff - 0.5, self.ink.status.warn, _CLIFF)

    def _draw_levels(self, chart: Chart) -> None:
        """Draw half of the start, and the mode's floor and ceiling, if they are within the chart."""
        floor, ceiling = self.limits or (None, None)
        levels = (
            (floor, " floor ", self.ink.faint),
            (ceiling, " ceiling ", self.ink.faint),
            (self.half, f" half {number(self.half or 0.0, 3)} ", self.ink.status.warn),
        )
        for level, name, style in levels:
            if level is not None and chart.axis.low <= level <= chart.axis.high:
                row = chart.row_of(level)
                chart.write(0, row, "╌" * chart.canvas.width, style)
                chart.write(1, row, name, style)

    def _draw_half_below(self, chart: Chart) -> None:
        """Write half of the start, if it is below the chart."""
        if self.half is not None and self.half < chart.axis.low:
            text = f"↓ half {number(self.half, 3)}"
            chart.write(chart.canvas.width - len(text), chart.canvas.height - 1, text, self.ink.faint)

    def _draw_warm_up(self, chart: Chart) -> None:
        first = self.track.chunks[0]
        if first.warm_up and chart.column(first.index + WARM_UP_CHUNKS) >= 9:
            chart.write(1, chart.canvas.height - 1, "warm-up", self.ink.faint)

    def _draw_fit(self, chart: Chart) -> None:
        """Draw the fitted curve over its chunks, and dotted where it continues as a forecast."""
        fit = self.fit
        if fit is None:
            return
        first, seen = max(fit.first, self.first), min(fit.first + fit.span - 1, self.last)
        columns = np.arange(chart.canvas.dot_x(first), chart.canvas.dot_x(self._fit_ends) + 1)
        xs = chart.canvas.x_of(columns)
        points = list(zip(xs.tolist(), fit.chosen.values(xs).tolist(), strict=True))
        chart.canvas.curve([point for point in points if point[0] <= seen], self.ink.chart.fit)
        for x, y in [point for point in points if point[0] > seen][::3]:
            chart.canvas.dot(chart.canvas.dot_x(x), chart.canvas.dot_y(y), self.ink.chart.fit)

    def _draw_curve(self, chart: Chart, chunks: Iterable[Chunk], name: str) -> None:
        """Draw a line through complete chunks, grey before the value has settled; partial chunks are single dots."""
        ink = self.ink
        settled: Callable[[Chunk], bool] = (
            (lambda chunk: self.track.averaged(chunk) >= SLOW_SETTLES)
            if name == "slow"
            else (lambda chunk: not chunk.warm_up)
        )
        before: tuple[float, float] | None = None
        for chunk in chunks:
            if before is not None and bisect_right(self._begins, before[0]) < bisect_right(self._begins, chunk.index):
                before = None  # the line must not cross contexts
            if chunk.pressures is None:
                before = None
                continue
            point = (float(chunk.index), value_of(chunk.pressures, name))
            style = ink.chart.series[name] if settled(chunk) and not chunk.partial else ink.faint
            chart.canvas.line(point if before is None or chunk.partial else before, point, style)
            before = before if chunk.partial else point

    def _draw_symbols(self, chart: Chart) -> None:
        """Draw a symbol per curve at the newest chunk, and one at the crossing."""
        for chunk in self.track.chunks:
            if chunk.index == self.track.start.crossing and chunk.pressures:
                chart.symbol(chart.column(chunk.index), chart.row_of(chunk.pressures.mid), "◆", self.ink.status.warn)
        newest = self.track.chunks[-1]
        if newest.pressures is None:
            return
        column = chart.column(newest.index)
        chart.symbol(column, chart.row_of(newest.pressures.mid), SIGNS["mid"], self.ink.accent)
        for name in self.names[1:]:
            row = chart.row_of(value_of(newest.pressures, name))
            chart.symbol_beside(column, row, SIGNS[name], self.ink.chart.series[name])

    def _x_axis(self, chart: Chart) -> Strip:
        ink, first, last = self.ink, self.first, self.last
        marks = [
            (chart.column(injection.chunk - 0.5), f"▴{injection.chunk}", ink.accent)
            for injection in reversed(list(self.track.injections.points)[-INJECTION_LINES:])
            if first <= injection.chunk <= last
        ]
        marks += [
            (chart.column(change.chunk - 0.5), f"{OFF}{change.chunk}", ink.status.warn)
            for change in reversed(list(self.track.mask_changes.points)[-INJECTION_LINES:])
            if first <= change.chunk <= last
        ]
        marks += [
            (chart.column(chunk - 0.5), f"▸{chunk}", ink.muted) for chunk in self._begins if first < chunk <= last
        ]
        if self._cliff is not None and first <= self._cliff <= last:
            marks.append((chart.column(self._cliff - 0.5), f"▾{self._cliff}", ink.status.warn))
        step = _tick_step(last - first, chart.canvas.width)
        ticks = [(chart.column(at), str(at), ink.muted) for at in range(-(-first // step) * step, last + 1, step)]
        return x_axis_labels(ink, chart.width, chart.gutter, [*marks, *ticks])


def value_of(pressures: Pressures, name: str) -> float:
    """Return one of the four pressures."""
    return cast(float, getattr(pressures, name))


def _nice_extent(chunks: int) -> int:
    """Return the length of the axis in chunks, in steps, so that it does not change with every chunk."""
    extent = _FIRST_X
    while extent < chunks:
        extent = extent * 3 // 2 if extent % 3 else extent * 4 // 3
    return extent


def _tick_step(extent: int, width: int) -> int:
    steps = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
    return next((step for step in steps if extent / step * 8 <= width), steps[-1])
