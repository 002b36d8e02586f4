"""Panel of the machine's vitals: memory, swap, temperatures, throttling, each with its history or why it is absent."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from rich.style import Style
from textual.geometry import Size
from textual.strip import Strip

from moe_watch.routing.events import MemoryPressure, Temperature, Vitals
from moe_watch.tui.drawing.braille import sparkline
from moe_watch.tui.state.frame import Frame
from moe_watch.tui.state.vitals_history import VitalsHistory
from moe_watch.tui.text.format import fraction, number, percent, size
from moe_watch.tui.text.sanitize import one_line
from moe_watch.tui.widgets.frame_widget import Panel

LABEL_WIDTH = 12
VALUE_WIDTH = 18
TWO_COLUMNS = 100
"""Least width for two columns of readings, in cells."""
TALLEST_HISTORY = 2
"""Greatest height of a history, in rows."""
LEAST_DEGREES = 10.0
"""Least range of a temperature's history, in °C."""
LEAST_GROWTH = 0.05
"""Least range of a memory history, as a share of its largest value."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One line: label, value, history, and a note on its source."""

    label: str
    value: str
    style: Style
    history: Sequence[float] = ()
    low: float = 0.0
    high: float = 1.0
    share: float | None = None
    """Share of the total, for a bar."""
    note: str = ""


class VitalsPanel(Panel):
    """All readings; the absent ones, with their reasons, are last."""

    NAME = "VITALS"

    def state(self, frame: Frame) -> Hashable:
        return frame.view.runs, frame.view.vitals.seen

    def draw(self, frame: Frame, size: Size) -> list[Strip]:
        width, height = size
        history = frame.view.vitals
        self.label(frame.words.machine)
        if history.last is None:
            never = frame.view.counts_only
            return self.message(width, height, "n/a: an import has no readings" if never else "no reading yet")
        present = self._memory(history, history.last) + self._temperatures(history, history.last)
        faint = self.palette.faint
        missing = [Reading(label, f"n/a: {one_line(why, 200)}", faint) for label, why in _missing(history.last)]
        return self._lay_out(present + missing, width, height)

    def _lay_out(self, readings: list[Reading], width: int, height: int) -> list[Strip]:
        columns = 2 if width >= TWO_COLUMNS and len(readings) > height else 1
        each = (width - 3 * (columns - 1)) // columns
        if len(readings) > columns * height:
            shown = columns * height - 1
            more = Reading(f"+ {len(readings) - shown} more", "z maximises", self.palette.faint)
            readings = [*readings[:shown], more]
        tall = max(1, min(TALLEST_HISTORY, columns * height // max(1, len(readings))))
        strips = [row for reading in readings for row in self._draw_reading(reading, each, tall)]
        if columns == 1:
            return strips
        rows = -(-len(strips) // 2)
        gap, blank = self.row(width - 2 * each).strip(), self.row(each).strip()
        right = strips[rows:] + [blank] * (2 * rows - len(strips))
        return [Strip.join([a, gap, b]) for a, b in zip(strips[:rows], right, strict=True)]

    def _draw_reading(self, reading: Reading, width: int, height: int) -> list[Strip]:
        """Return the rows of one reading; its history takes all `height` rows."""
        ink = self.palette
        row = self.row(width).put(reading.label[: LABEL_WIDTH - 1], ink.muted).to(LABEL_WIDTH)
        row.words(reading.value, reading.style)
        if reading.share is None and not reading.history:
            row.put(f"  {reading.note}" if reading.note else "", ink.faint)
            return [row.strip(), *[self.row(width).strip()] * (height - 1)]
        row.to(LABEL_WIDTH + VALUE_WIDTH)
        row.put(f"{reading.note} " if reading.note else "", ink.faint)
        room = row.room
        if reading.share is not None:
            bar = min(16, room // 2)
            filled = round(min(1.0, reading.share) * bar)
            row.put("━" * filled, reading.style).put("━" * (bar - filled), ink.chart.track).put(" ")
            room -= bar + 1
        column = row.used
        top, *below = sparkline(reading.history, room, height, reading.low, reading.high)
        first = row.put(top, ink.chart.fill).strip()
        return [first, *(self.row(width).to(column).put(bars, ink.chart.fill).strip() for bars in below)]

    def _memory(self, history: VitalsHistory, vitals: Vitals) -> list[Reading]:
        ink = self.palette
        readings = []
        if vitals.memory_used is not None and vitals.memory_total:
            share = vitals.memory_used / vitals.memory_total
            text = fraction(vitals.memory_used, vitals.memory_total)
            used = history.quantities["memory_used"]
            low, high = _memory_range(used)
            readings.append(Reading("memory", text, self._level(share, 0.85, 0.95), used, low, high, share))
        if vitals.pressure is not None:
            readings.append(self._pressure(history, vitals.pressure))
        for name, label in (("worker_memory", "worker"), ("process_memory", "dashboard")):
            value, past = getattr(vitals, name), history.quantities[name]
            if value is not None:
                readings.append(Reading(label, size(value), ink.text, past, *_memory_range(past)))
        if vitals.swap_used is not None:
            readings.append(self._swap(history, vitals, vitals.swap_used))
        return readings

    def _pressure(self, history: VitalsHistory, pressure: MemoryPressure) -> Reading:
        status = self.palette.status
        style = {"ok": status.good, "warning": status.warn, "critical": status.bad}[pressure.level]
        stalled = "" if pressure.stalled is None else f"{percent(pressure.stalled)} stalled"
        past = history.stalled if pressure.stalled is not None else ()
        value = " ".join(part for part in (pressure.level, stalled) if part)
        return Reading("pressure", value, style, past, 0.0, max([0.1, *past]), note=one_line(pressure.source, 24))

    def _swap(self, history: VitalsHistory, vitals: Vitals, used: int) -> Reading:
        past = history.quantities["swap_used"]
        if not vitals.swap_total:
            return Reading("swap", "none configured" if vitals.swap_total == 0 else size(used), self.palette.muted)
        return Reading("swap", fraction(used, vitals.swap_total), self.palette.text, past, *_memory_range(past))

    def _temperatures(self, history: VitalsHistory, vitals: Vitals) -> list[Reading]:
        ink = self.palette
        readings = [self._temperature(history, temperature) for temperature in vitals.temperatures]
        if vitals.throttling is not None:
            text, style = (
                ("yes: slowed down by heat or power", ink.status.bad) if vitals.throttling else ("no", ink.status.good)
            )
            readings.append(Reading("throttling", text, style))
        return readings

    def _temperature(self, history: VitalsHistory, temperature: Temperature) -> Reading:
        past = history.sensors.get(temperature.sensor, ())
        high = temperature.high
        share = 0.0 if not high else temperature.celsius / high
        low_end = min(past, default=temperature.celsius)
        high_end = max(max(past, default=temperature.celsius), low_end + LEAST_DEGREES)
        value = f"{number(temperature.celsius, 0)} °C" + (f" of {number(high, 0)}" if high else "")
        label = one_line(temperature.sensor, LABEL_WIDTH - 1)
        return Reading(label, value, self._level(share, 0.85, 0.95), past, low_end, high_end)

    def _level(self, share: float, warn: float, bad: float) -> Style:
        ink = self.palette
        return ink.status.bad if share >= bad else ink.status.warn if share >= warn else ink.text


def _memory_range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    missing = max(0.0, high * LEAST_GROWTH - (high - low)) / 2
    return low - missing, high + missing


_LABELS = {
    "memory_used": "memory",
    "memory_total": "memory",
    "memory_available": "available",
    "swap_used": "swap",
    "swap_total": "swap",
    "process_memory": "dashboard",
    "worker_memory": "worker",
    "pressure": "pressure",
    "temperatures": "temperature",
    "throttling": "throttling",
}


def _missing(vitals: Vitals) -> list[tuple[str, str]]:
    """Return absent readings with their reasons, once per label."""
    reasons: dict[str, str] = {}
    for name, why in vitals.unavailable.items():
        reasons.setdefault(_LABELS.get(name, one_line(name, LABEL_WIDTH - 1)), why)
    return list(reasons.items())
