"""Panel of the machine's vitals: memory, swap, temperatures, throttling, each with its history or why it is absent."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from rich.cells import cell_len
from textual.geometry import Size
from textual.strip import Strip

from moe_watch.routing.events import Vitals
from moe_watch.tui.drawing.braille import sparkline
from moe_watch.tui.state.frame import Frame
from moe_watch.tui.text.sanitize import one_line
from moe_watch.tui.widgets.frame_widget import Panel
from moe_watch.tui.widgets.panels.vitals import memory, temperature
from moe_watch.tui.widgets.panels.vitals.memory import memory_readings
from moe_watch.tui.widgets.panels.vitals.reading import LABEL_WIDTH, Reading
from moe_watch.tui.widgets.panels.vitals.temperature import temperature_readings

LEAST_HISTORY = 8
"""Cells of a history that a note leaves free."""
LABELS = memory.LABELS | temperature.LABELS
UNLISTED = frozenset({"group_events"}) | temperature.SAME_REASON
"""Absent quantities that are no lack: most processes are in no limited control group."""
VALUE_WIDTH = 18
TWO_COLUMNS = 100
"""Least width for two columns of readings, in cells."""
TALLEST_HISTORY = 2
"""Greatest height of a history, in rows."""


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
        ink = self.palette
        present = memory_readings(ink, frame.view) + temperature_readings(ink, history, history.last)
        missing = [Reading(label, f"n/a: {one_line(why, 200)}", ink.faint) for label, why in _missing(history.last)]
        return self._lay_out(present + missing, width, height)

    def _lay_out(self, readings: list[Reading], width: int, height: int) -> list[Strip]:
        columns = 2 if width >= TWO_COLUMNS and len(readings) > height else 1
        each = (width - 3 * (columns - 1)) // columns
        if len(readings) > columns * height:
            shown = columns * height - 1
            more = Reading(f"+ {len(readings) - shown} more", "z maximises", self.palette.faint)
            readings = [*readings[:shown], more]
        tall = max(1, min(TALLEST_HISTORY, columns * height // max(1, len(readings))))
        values = min(_value_width(readings), each // 2)
        strips = [row for reading in readings for row in self._draw_reading(reading, each, tall, values)]
        if columns == 1:
            return strips
        rows = -(-len(strips) // 2)
        gap, blank = self.row(width - 2 * each).strip(), self.row(each).strip()
        right = strips[rows:] + [blank] * (2 * rows - len(strips))
        return [Strip.join([a, gap, b]) for a, b in zip(strips[:rows], right, strict=True)]

    def _draw_reading(self, reading: Reading, width: int, height: int, values: int) -> list[Strip]:
        """Return the rows of one reading; its history takes all `height` rows."""
        ink = self.palette
        row = self.row(width).put(reading.label[: LABEL_WIDTH - 1], ink.muted).to(LABEL_WIDTH)
        row.words(reading.value, reading.style)
        if reading.share is None and not reading.history:
            row.put(f"  {reading.note}" if reading.note else "", ink.faint)
            return [row.strip(), *[self.row(width).strip()] * (height - 1)]
        row.to(max(LABEL_WIDTH + values, row.used + 1))
        if row.room - cell_len(reading.note) > LEAST_HISTORY:
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


def _value_width(readings: Sequence[Reading]) -> int:
    """Return the width of the column of values: at least `VALUE_WIDTH`, or as the longest value with a history."""
    drawn = (reading for reading in readings if reading.history or reading.share is not None)
    return max(VALUE_WIDTH, *(cell_len(reading.value) + 2 for reading in drawn), 0)


def _missing(vitals: Vitals) -> list[tuple[str, str]]:
    """Return absent readings with their reasons, once per label."""
    reasons: dict[str, str] = {}
    for name, why in vitals.unavailable.items():
        if name in UNLISTED:
            continue
        reasons.setdefault(LABELS.get(name, one_line(name, LABEL_WIDTH - 1)), why)
    return list(reasons.items())
