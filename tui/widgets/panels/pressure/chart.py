"""The picture of a pressure trajectory: its curve, what was fitted to it, and where text was put in."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import cast

import numpy as np
from textual.strip import Strip

from moe_watch.routing.events import Chunk, Pressures
from moe_watch.routing.half_life.fit import Fit
from moe_watch.routing.pressure.formulas import WARM_UP_CHUNKS
from moe_watch.tui.drawing.chart import Chart, ChartAxis, x_labels
from moe_watch.tui.drawing.colours import Palette
from moe_watch.tui.state.trajectory import PressureTrack
from moe_watch.tui.text.format import number

SLOW_SETTLES = 1500
"""Tokens of a context that the slow average needs: P_slow is grey before."""
LEAST_SPAN = 0.1
"""The chart never magnifies noise beyond this range of pressure."""
SIGNS = {"mid": "●", "fast": "f", "slow": "s", "net": "n"}
"""What stands at the newest end of a curve, and before its name: colours alone would not tell them apart."""
POSTS = 6
"""Injections shown at full height and by number, the newest ones."""
RESTART_ROOM = 4
"""Columns per fresh context, on average, below which only the feet of their lines are drawn."""
_FOOT = "╵"
_CLIFF = "╎"
_RESTART = "│"
_FIRST_X = 2 * WARM_UP_CHUNKS


class PressureChart:
    """One drawing of one trajectory.

    Args:
        ink: the colours.
        track: the trajectory; at least one chunk has pressures.
        fit: what was fitted to it, if anything was.
        limits: the lowest and the highest P_mid that the mode can give.
        half: of the start that the verdict is about.
        names: which pressures to draw, `mid` first.
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
        """The chart and its row of chunk numbers, `height` rows in all."""
        known = [chunk.pressures for chunk in self.track.chunks if chunk.pressures]
        values = [value_of(pressures, name) for pressures in known for name in self.names]
        axis = ChartAxis.around(values, least=LEAST_SPAN, most_steps=max(2, min(8, (height - 3) // 2)))
        chart = Chart(self.ink, width, height - 1, (self.first, self.last), axis)
        self._draw_restarts(chart)
        self._draw_injections(chart)
        self._draw_cliff(chart)
        self._draw_levels(chart)
        self._draw_beyond(chart)
        self._draw_warm_up(chart)
        dense = self.last - self.first > chart.canvas.width
        if not dense:
            self._draw_fit(chart)
        for name in reversed(self.names):
            self._draw_curve(chart, self.track.chunks, name)
        if dense:  # the trajectory leaves few cells free, and would hide the curve through its middle
            self._draw_fit(chart)
        if self.fit is not None:
            chart.band(self.fit.band, max(self.fit.first, self.first), self._fit_ends)
        self._draw_marks(chart)
        return [*chart.rows(), self._x_axis(chart)]

    @property
    def _fit_ends(self) -> int:
        """Chunk up to which the fit says something: the end of its context."""
        fit = self.fit
        ends = [] if fit is None else [chunk for chunk in self._begins if chunk > fit.first]
        return min([*ends, self.last])

    def _draw_restarts(self, chart: Chart) -> None:
        """Draw a line where a fresh context begins: its two sides are not one series.

        After hours there may be one in every column; full lines would then hide the curves.
        """
        starts = {chart.column(chunk - 0.5): chunk - 0.5 for chunk in self._begins if self.first < chunk <= self.last}
        sparse = len(starts) * RESTART_ROOM <= chart.canvas.width
        for column, x in starts.items():
            if sparse:
                chart.post(x, self.ink.muted, _RESTART)
            else:
                chart.write(column, chart.canvas.height - 1, _FOOT, self.ink.muted)

    def _draw_injections(self, chart: Chart) -> None:
        """The newest as posts; of those before, which may be one per chunk, only the feet."""
        shown = [injection.chunk - 0.5 for injection in self.track.injections if injection.chunk >= self.first]
        for x in shown[:-POSTS]:
            chart.write(chart.column(x), chart.canvas.height - 1, _FOOT, self.ink.accent)
        for x in shown[-POSTS:]:
            chart.post(x, self.ink.accent)

    @property
    def _cliff(self) -> int | None:
        """The first chunk at the new level, if a cliff was found."""
        if self.fit is None or self.fit.chosen.shape != "cliff":
            return None
        return self.fit.first + round(self.fit.chosen.parameters["at"])

    def _draw_cliff(self, chart: Chart) -> None:
        if self._cliff is not None and self._cliff >= self.first:
            chart.post(self._cliff - 0.5, self.ink.warn, _CLIFF)

    def _draw_levels(self, chart: Chart) -> None:
        """Half of the start, and the mode's floor and ceiling, where they lie within the chart."""
        floor, ceiling = self.limits or (None, None)
        levels = (
            (floor, " floor ", self.ink.faint),
            (ceiling, " ceiling ", self.ink.faint),
            (self.half, f" half {number(self.half or 0.0, 3)} ", self.ink.warn),
        )
        for level, name, style in levels:
            if level is not None and chart.axis.low <= level <= chart.axis.high:
                row = chart.line_of(level)
                chart.write(0, row, "╌" * chart.canvas.width, style)
                chart.write(1, row, name, style)

    def _draw_beyond(self, chart: Chart) -> None:
        """Half of the start where it lies below the chart."""
        if self.half is not None and self.half < chart.axis.low:
            text = f"↓ half {number(self.half, 3)}"
            chart.write(chart.canvas.width - len(text), chart.canvas.height - 1, text, self.ink.faint)

    def _draw_warm_up(self, chart: Chart) -> None:
        first = self.track.chunks[0]
        if first.warm_up and chart.column(first.index + WARM_UP_CHUNKS) >= 9:
            chart.write(1, chart.canvas.height - 1, "warm-up", self.ink.faint)

    def _draw_fit(self, chart: Chart) -> None:
        """The fitted curve over what it was fitted to, and dotted where it goes on as a forecast."""
        fit = self.fit
        if fit is None:
            return
        first, seen = max(fit.first, self.first), min(fit.first + fit.span - 1, self.last)
        columns = np.arange(chart.canvas.dot_x(first), chart.canvas.dot_x(self._fit_ends) + 1)
        xs = chart.canvas.x_of(columns)
        points = list(zip(xs.tolist(), fit.chosen.values(xs).tolist(), strict=True))
        chart.canvas.curve([point for point in points if point[0] <= seen], self.ink.fit)
        for x, y in [point for point in points if point[0] > seen][::3]:
            chart.canvas.dot(chart.canvas.dot_x(x), chart.canvas.dot_y(y), self.ink.fit)

    def _draw_curve(self, chart: Chart, chunks: Iterable[Chunk], name: str) -> None:
        """Join complete chunks; grey where the value has not settled; partial chunks are single dots."""
        ink = self.ink
        settled: Callable[[Chunk], bool] = (
            (lambda chunk: self.track.averaged(chunk) >= SLOW_SETTLES)
            if name == "slow"
            else (lambda chunk: not chunk.warm_up)
        )
        before: tuple[float, float] | None = None
        for chunk in chunks:
            if before is not None and bisect_right(self._begins, before[0]) < bisect_right(self._begins, chunk.index):
                before = None  # it belongs to another context
            if chunk.pressures is None:
                before = None
                continue
            point = (float(chunk.index), value_of(chunk.pressures, name))
            style = ink.series[name] if settled(chunk) and not chunk.partial else ink.faint
            chart.canvas.line(point if before is None or chunk.partial else before, point, style)
            before = before if chunk.partial else point

    def _draw_marks(self, chart: Chart) -> None:
        """The newest chunk with a sign for each curve, and the one that crossed the half."""
        for chunk in self.track.chunks:
            if chunk.index == self.track.crossing and chunk.pressures:
                chart.mark(chart.column(chunk.index), chart.line_of(chunk.pressures.mid), "◆", self.ink.warn)
        newest = self.track.chunks[-1]
        if newest.pressures is None:
            return
        column = chart.column(newest.index)
        chart.mark(column, chart.line_of(newest.pressures.mid), SIGNS["mid"], self.ink.accent)
        for name in self.names[1:]:
            row = chart.line_of(value_of(newest.pressures, name))
            chart.mark_beside(column, row, SIGNS[name], self.ink.series[name])

    def _x_axis(self, chart: Chart) -> Strip:
        ink, first, last = self.ink, self.first, self.last
        marks = [
            (chart.column(injection.chunk - 0.5), f"▴{injection.chunk}", ink.accent)
            for injection in reversed(list(self.track.injections)[-POSTS:])
            if first <= injection.chunk <= last
        ]
        marks += [
            (chart.column(chunk - 0.5), f"▸{chunk}", ink.muted) for chunk in self._begins if first < chunk <= last
        ]
        if self._cliff is not None and first <= self._cliff <= last:
            marks.append((chart.column(self._cliff - 0.5), f"▾{self._cliff}", ink.warn))
        step = _tick_step(last - first, chart.canvas.width)
        ticks = [(chart.column(at), str(at), ink.muted) for at in range(-(-first // step) * step, last + 1, step)]
        return x_labels(ink, chart.width, chart.gutter, [*marks, *ticks])


def value_of(pressures: Pressures, name: str) -> float:
    """One of the four pressures."""
    return cast(float, getattr(pressures, name))


def _nice_extent(chunks: int) -> int:
    """How far the axis goes, so that it does not move with every chunk."""
    extent = _FIRST_X
    while extent < chunks:
        extent = extent * 3 // 2 if extent % 3 else extent * 4 // 3
    return extent


def _tick_step(extent: int, width: int) -> int:
    steps = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
    return next((step for step in steps if extent / step * 8 <= width), steps[-1])
