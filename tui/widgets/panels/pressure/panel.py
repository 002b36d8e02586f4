"""Panel of pressure by chunk: numbers, chart, and text below it, or the table of candidate shapes."""

from __future__ import annotations

from collections.abc import Hashable
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.strip import Strip

from moe_watch.routing.half_life.fit import Fit
from moe_watch.routing.pressure.bounds import mode_bounds
from moe_watch.routing.pressure.formulas import MODES, Mode, mode_words
from moe_watch.sessions.text import plural
from moe_watch.tui.drawing.line import Part, cells_of
from moe_watch.tui.state.frame import Frame
from moe_watch.tui.state.pressure.trajectory import PressureTrack
from moe_watch.tui.state.pressure.trends import Trend
from moe_watch.tui.state.run import RunView
from moe_watch.tui.text.format import count, number
from moe_watch.tui.widgets.frame_widget import Panel
from moe_watch.tui.widgets.panels.pressure.candidate_table import candidate_table
from moe_watch.tui.widgets.panels.pressure.text_below_chart import TextLine, TrajectoryStart, start_of, text_below_chart
from moe_watch.tui.widgets.panels.pressure.trajectory_chart import SIGNS, PressureChart, value_of

NO_PRESSURE = (
    "no MoE layers, so no pressure and no half-life: both are computed from routing. "
    "Text, surprisal and vitals are shown and recorded."
)
LINES = ("fast", "slow", "net")
CHART_LEAST = 4
"""Least height of a chart with its axis, in rows."""


class PressurePanel(Panel):
    """Trajectory of one pressure mode."""

    NAME = "PRESSURE"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "app.perform('pressure_fits')", show=False)]

    def __init__(self, *, id: str) -> None:  # noqa: A002 - the name that Textual uses
        super().__init__(id=id)
        self.other_mode = False
        """Show the mode that was not recorded."""
        self.all_lines = False
        """Show fast, slow and net beside mid."""
        self.all_fits = False
        """Show the table of candidate shapes instead of the chart."""

    def state(self, frame: Frame) -> Hashable:
        view = frame.view
        waiting = view.clock.missing if view.chunks == 0 else 0
        run = view.runs, view.chunks, view.perturbations, waiting, view.tap_off_at, bool(view.pressure.forks)
        return run, frame.trend, self.other_mode, self.all_lines, self.all_fits

    def mode(self, view: RunView) -> str:
        """Return the mode that is shown."""
        return view.other_mode if self.other_mode or view.header is None else view.header.pressure

    def toggle_mode(self) -> None:
        """Show the other pressure mode."""
        self.other_mode = not self.other_mode
        self.redraw()

    def toggle_lines(self) -> None:
        """Show or hide fast, slow and net."""
        self.all_lines = not self.all_lines
        self.redraw()

    def toggle_fits(self) -> None:
        """Show the table of candidate shapes, or the chart again."""
        self.all_fits = not self.all_fits
        self.redraw()

    def draw(self, frame: Frame, size: Size) -> list[Strip]:
        width, height = size
        view = frame.view
        if view.header is None:
            self.label("mid by chunk")
            return self.message(width, height, "no chunk yet")
        if view.counts_only:
            self.label("mid by chunk")
            return self.message(width, height, view.no_token_text)
        if view.is_dense:
            self.label("mid by chunk")
            return self.message(width, height, NO_PRESSURE)
        mode = self.mode(view)
        self.label(f"{mode_words(mode)} · {'fitted curves' if self.all_fits else 'mid by chunk'}", *self._origin(view))
        if self.other_mode and view.pressure.problem:
            return self.message(width, height, f"n/a: {view.pressure.problem}")
        if self.all_fits and mode in MODES:
            return self._table(frame.trend, mode, view.header.model.experts, width)
        return self._chart_and_text(view, frame.trend, width, height)

    def _origin(self, view: RunView) -> tuple[Part, ...]:
        """Return a note that the numbers are computed rather than recorded, and since which token after a seek."""
        if not self.other_mode:
            return ()
        since = view.tracks[view.other_mode].entered_at
        where = "" if since is None else f" from token {count(since)} on"
        return ((f" computed here{where}, not recorded ", self.palette.muted),)

    def _table(self, trend: Trend | None, mode: Mode, experts: int, width: int) -> list[Strip]:
        problem = "no chunk is measured yet" if trend is None else trend.problem
        fit = None if trend is None else trend.fit
        return candidate_table(self.palette, fit, problem, mode, experts, width)

    def _chart_and_text(self, view: RunView, trend: Trend | None, width: int, height: int) -> list[Strip]:
        track = view.tracks[self.mode(view)]
        if not track.chunks:
            return self.message(width, height, f"first chunk in {plural(view.clock.missing, 'token')}")
        if not any(chunk.pressures for chunk in track.chunks):
            why = view.tap_off_text or "this run recorded no signals that pressure needs"
            return self.message(width, height, f"n/a: {why}")
        lines = self._text_lines(view, track, trend)[: max(1, height - CHART_LEAST - 3)]
        text = [self._text_line(line, width) for line in lines]
        start = start_of(track, trend)
        rows, numbers = height - len(text) - 1, self._numbers(view, track, start, width)
        if rows < CHART_LEAST:
            return [numbers, *text]
        fit = None if trend is None else trend.fit
        return [numbers, *self._chart(view, track, fit, start).draw(width, rows), *text]

    def _chart(
        self, view: RunView, track: PressureTrack, fit: Fit | None, start: TrajectoryStart | None
    ) -> PressureChart:
        names = ("mid", *LINES) if self.all_lines else ("mid",)
        half = None if start is None else start.half
        return PressureChart(self.palette, track, fit, self._limits(view, track), half, names)

    def _limits(self, view: RunView, track: PressureTrack) -> tuple[float, float] | None:
        """Return the lowest and the highest P_mid of the mode; None for a mode of another version."""
        if view.header is None or track.mode not in MODES:
            return None
        return mode_bounds(track.mode, view.header.model.experts).mid

    def _text_lines(self, view: RunView, track: PressureTrack, trend: Trend | None) -> list[TextLine]:
        recorded = view.header is not None and view.header.pressure == track.mode
        if not view.pressure.forks:
            energy_problem = ""
        elif recorded:
            energy_problem = "no boundary has all three arms yet"
        else:
            energy_problem = "the forks were measured in the other mode"
        return text_below_chart(track, trend, tap_off=view.tap_off_text, energy_problem=energy_problem)

    def _text_line(self, line: TextLine, width: int) -> Strip:
        ink = self.palette
        style = {"plain": ink.muted, "verdict": ink.strong, "warning": ink.status.warn, "injection": ink.accent}[
            line.tone
        ]
        return self.row(width).first_that_fits(*([(text, style)] for text in line.variants)).strip()

    def _numbers(self, view: RunView, track: PressureTrack, start: TrajectoryStart | None, width: int) -> Strip:
        """Return the newest values, the possible range of P_mid, and the start with its half."""
        ink, row = self.palette, self.row(width)
        last = track.chunks[-1].pressures
        for name in ("mid", *(LINES if self.all_lines else ())):
            sign = SIGNS[name] if self.all_lines else "━"
            row.put(f"{sign} ", ink.accent if name == "mid" else ink.chart.series[name])
            value = "n/a" if last is None else number(value_of(last, name), 3)
            row.put(f"{name} ", ink.muted).put(value, ink.strong).put("  ")
        parts = []
        if start is not None:
            value, half = number(start.value, 3), number(start.half, 3)
            parts = [(f"{start.name} ", ink.muted), (value, ink.text), ("  half ", ink.muted), (half, ink.text)]
        limits = self._limits(view, track)
        possible = [] if limits is None else [(f"possible {number(limits[0])} to {number(limits[1])}", ink.muted)]
        if cells_of(*possible, *parts) + 3 <= row.room:
            row.first_that_fits(possible)
        return row.right(*parts).strip()
