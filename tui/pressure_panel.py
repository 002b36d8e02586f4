"""Pressure by chunk: where it began, how it went, where text was put in. No fit, and no verdict."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import cast

from rich.style import Style
from textual.geometry import Size
from textual.strip import Strip

from routing.events import Chunk, Pressures
from routing.pressure import WARM_UP_CHUNKS, Mode, reachability
from tui.chart import Axis, Chart, x_labels
from tui.format import number, plural, signed
from tui.frame import Frame
from tui.panel import Panel
from tui.pressure_track import Injection, PressureTrack

SLOW_SETTLES = 1500
"""Tokens that the slow average needs: P_slow is grey before."""
LEAST_SPAN = 0.1
"""The chart never magnifies noise beyond this range of pressure."""
LINES = ("fast", "slow", "net")
SIGNS = {"mid": "●", "fast": "f", "slow": "s", "net": "n"}
"""What stands at the newest end of a curve, and before its name: colours alone would not tell them apart."""
POSTS = 6
"""Injections shown at full height and by number, the newest ones."""
_FOOT = "╵"
_FIRST_X = 2 * WARM_UP_CHUNKS


class PressurePanel(Panel):
    """The trajectory of one pressure mode."""

    NAME = "PRESSURE"

    def __init__(self, *, id: str) -> None:  # noqa: A002 - Textual's own name
        super().__init__(id=id)
        self.other_mode = False
        """Show the mode that was not recorded."""
        self.all_lines = False
        """Show fast, slow and net beside mid."""

    def state(self, frame: Frame) -> Hashable:
        view = frame.view
        waiting = view.clock.missing if view.chunks == 0 else 0
        return view.runs, view.chunks, view.perturbations, waiting, self.other_mode, self.all_lines

    def toggle_mode(self) -> None:
        """Show the other pressure mode."""
        self.other_mode = not self.other_mode
        self.redraw()

    def toggle_lines(self) -> None:
        """Show or hide fast, slow and net."""
        self.all_lines = not self.all_lines
        self.redraw()

    def draw(self, frame: Frame, size: Size) -> list[Strip]:
        width, height = size
        view = frame.view
        if view.header is None:
            self.label("mid by chunk")
            return self.message(width, height, "no chunk yet")
        mode = view.other_mode if self.other_mode else view.header.pressure
        note = ((" computed here, not recorded ", self.palette.muted),) if self.other_mode else ()
        self.label(f"{mode} · mid by chunk", *note)
        if self.other_mode and view.mode_problem:
            return self.message(width, height, f"n/a: {view.mode_problem}")
        track = view.tracks[mode]
        if not track.chunks:
            return self.message(width, height, f"first chunk in {plural(view.clock.missing, 'token')}")
        if not any(chunk.pressures for chunk in track.chunks):
            return self.message(width, height, "n/a: this run recorded no signals that pressure needs")
        notes = self._notes(track, width)[: max(1, height - 6)]
        chart_height = height - len(notes) - 1
        if chart_height < 2:
            return [self._numbers(track, width), *notes]
        return [self._numbers(track, width), *self._chart(track, width, chart_height), *notes]

    def _numbers(self, track: PressureTrack, width: int) -> Strip:
        """The newest values, and the start with its half."""
        ink, row = self.palette, self.row(width)
        last = track.chunks[-1].pressures
        for name in ("mid", *(LINES if self.all_lines else ())):
            value = None if last is None else getattr(last, name)
            sign = SIGNS[name] if self.all_lines else "━"
            row.put(f"{sign} ", ink.accent if name == "mid" else ink.series[name])
            row.put(f"{name} ", ink.muted).put("n/a" if value is None else number(value, 3), ink.strong).put("  ")
        if track.initial is not None and track.half is not None:
            start, half = number(track.initial, 3), number(track.half, 3)
            row.right(("P₀ ", ink.muted), (start, ink.text), ("  half ", ink.muted), (half, ink.text))
        return row.strip()

    def _notes(self, track: PressureTrack, width: int) -> list[Strip]:
        """What is missing, what cannot happen, and what the last injection did."""
        ink = self.palette
        lines: list[tuple[Sequence[str], Style]] = []
        if track.warm_up_missing:
            done = WARM_UP_CHUNKS - track.warm_up_missing
            warm_up = f"warm-up {done} of {WARM_UP_CHUNKS} chunks"
            lines.append(((f"{warm_up}: nothing is measured yet", warm_up), ink.muted))
        elif track.crossing is not None:
            lines.append(((f"half of P₀ crossed at chunk {track.crossing}",), ink.warn))
        if track.initial_problem:
            lines.append(((f"P₀ n/a: {track.initial_problem}",), ink.muted))
        lines += [((text,), ink.warn) for text in _unreachable(track)]
        lines += [(variants, ink.accent) for variants in _delta(track)]
        rows = ([((text, style),) for text in variants] for variants, style in lines)
        return [self.row(width).first_that_fits(*variants).strip() for variants in rows]

    def _chart(self, track: PressureTrack, width: int, height: int) -> list[Strip]:
        """The chart and its row of chunk numbers, `height` + 1 rows in all."""
        names = ("mid", *LINES) if self.all_lines else ("mid",)
        values = [getattr(chunk.pressures, name) for chunk in track.chunks if chunk.pressures for name in names]
        axis = Axis.around(values, least=LEAST_SPAN, most_steps=max(2, min(8, (height - 2) // 2)))
        first = track.chunks[0].index
        last = first + _nice_extent(track.chunks[-1].index - first + 1)
        chart = Chart(self.palette, width, height - 1, (first, last), axis)
        self._draw_injections(chart, track.injections, first)
        self._draw_half(chart, track)
        self._draw_warm_up(chart, track)
        for name in reversed(names):
            self._draw_curve(chart, track.chunks, name)
        self._draw_marks(chart, track, names)
        return [*chart.rows(), self._x_axis(chart, track, first, last)]

    def _draw_injections(self, chart: Chart, injections: Sequence[Injection], first: int) -> None:
        """The newest as posts; of those before, which may be one per chunk, only the feet."""
        shown = [injection.chunk - 0.5 for injection in injections if injection.chunk >= first]
        for x in shown[:-POSTS]:
            chart.write(chart.column(x), chart.canvas.height - 1, _FOOT, self.palette.accent)
        for x in shown[-POSTS:]:
            chart.post(x, self.palette.accent)

    def _draw_half(self, chart: Chart, track: PressureTrack) -> None:
        half = track.half
        if half is None:
            return
        if chart.axis.low <= half <= chart.axis.high:
            row = chart.line_of(half)
            chart.write(0, row, "╌" * chart.canvas.width, self.palette.warn)
            chart.write(1, row, " half of P₀ ", self.palette.warn)
        elif half < chart.axis.low:
            text = f"↓ half of P₀ {number(half, 2)}"
            chart.write(chart.canvas.width - len(text), chart.canvas.height - 1, text, self.palette.faint)

    def _draw_warm_up(self, chart: Chart, track: PressureTrack) -> None:
        if track.chunks[0].warm_up and chart.column(track.chunks[0].index + WARM_UP_CHUNKS) >= 9:
            chart.write(1, chart.canvas.height - 1, "warm-up", self.palette.faint)

    def _draw_curve(self, chart: Chart, chunks: Iterable[Chunk], name: str) -> None:
        """Join complete chunks; grey where the value has not settled; partial chunks are single dots."""
        ink = self.palette
        settled: Callable[[Chunk], bool] = (
            (lambda chunk: chunk.last >= SLOW_SETTLES) if name == "slow" else (lambda chunk: not chunk.warm_up)
        )
        before: tuple[float, float] | None = None
        for chunk in chunks:
            if chunk.pressures is None:
                before = None
                continue
            point = (float(chunk.index), _value(chunk.pressures, name))
            style = ink.series[name] if settled(chunk) and not chunk.partial else ink.faint
            chart.canvas.line(point if before is None or chunk.partial else before, point, style)
            before = before if chunk.partial else point

    def _draw_marks(self, chart: Chart, track: PressureTrack, names: Sequence[str]) -> None:
        """The newest chunk with a sign for each curve, and the one that crossed the half."""
        for chunk in track.chunks:
            if chunk.index == track.crossing and chunk.pressures:
                chart.mark(chart.column(chunk.index), chart.line_of(chunk.pressures.mid), "◆", self.palette.warn)
        newest = track.chunks[-1]
        if newest.pressures is None:
            return
        column = chart.column(newest.index)
        chart.mark(column, chart.line_of(newest.pressures.mid), SIGNS["mid"], self.palette.accent)
        for name in names[1:]:
            row = chart.line_of(_value(newest.pressures, name))
            chart.mark_beside(column, row, SIGNS[name], self.palette.series[name])

    def _x_axis(self, chart: Chart, track: PressureTrack, first: int, last: int) -> Strip:
        ink = self.palette
        marks = [
            (chart.column(injection.chunk - 0.5), f"▴{injection.chunk}", ink.accent)
            for injection in reversed(list(track.injections)[-POSTS:])
            if first <= injection.chunk <= last
        ]
        step = _tick_step(last - first, chart.canvas.width)
        ticks = [(chart.column(at), str(at), ink.muted) for at in range(-(-first // step) * step, last + 1, step)]
        return x_labels(ink, chart.width, chart.gutter, [*marks, *ticks])


def _value(pressures: Pressures, name: str) -> float:
    return cast(float, getattr(pressures, name))


def _unreachable(track: PressureTrack) -> list[str]:
    """Says so, with both numbers, if this mode cannot fall to half of where it began."""
    if track.initial is None:
        return []
    found = reachability(cast(Mode, track.mode), track.initial)
    return [] if found.reachable else [f"unreachable: floor {number(found.floor, 3)} > half {number(found.half, 3)}"]


def _delta(track: PressureTrack) -> list[Sequence[str]]:
    """The difference around the last injection, called what it is, in longer and shorter words."""
    if not track.injections:
        return []
    label, before, delta = track.injections[-1].label, track.injections[-1].before, track.delta
    if delta is not None and before is not None:
        change = f"{label}: P_mid {signed(delta)}"
        if before.warm_up:
            return [(f"{change} (in the warm-up, no control)", f"{change}, no control")]
        return [(f"{change} (one chunk before/after, no control)", f"{change}, no control")]
    missing = "no complete chunk before it" if before is None else "after the next complete chunk"
    return [(f"{label}: before/after n/a, {missing}", f"{label}: n/a, {missing}")]


def _nice_extent(chunks: int) -> int:
    """How far the axis goes, so that it does not move with every chunk."""
    extent = _FIRST_X
    while extent < chunks:
        extent = extent * 3 // 2 if extent % 3 else extent * 4 // 3
    return extent


def _tick_step(extent: int, width: int) -> int:
    steps = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
    return next((step for step in steps if extent / step * 8 <= width), steps[-1])
