"""Readings of memory in the vitals panel: the machine, its pressure, the processes, and swap."""

from __future__ import annotations

from collections.abc import Sequence

from moe_watch.routing.events import MemoryPressure, Vitals
from moe_watch.tui.drawing.colours import Palette
from moe_watch.tui.state.vitals_history import VitalsHistory
from moe_watch.tui.text.format import fraction, percent, size
from moe_watch.tui.text.sanitize import one_line
from moe_watch.tui.widgets.panels.vitals.reading import Reading, level_style

LEAST_GROWTH = 0.05
"""Least range of a memory history, as a share of its largest value."""

LABELS = {
    "memory_used": "memory",
    "memory_total": "memory",
    "memory_available": "available",
    "swap_used": "swap",
    "swap_total": "swap",
    "process_memory": "dashboard",
    "worker_memory": "worker",
    "pressure": "pressure",
}
"""Labels of absent readings by field of `Vitals`."""


def memory_readings(ink: Palette, history: VitalsHistory, vitals: Vitals) -> list[Reading]:
    """Return the readings of memory that are present, the most important first."""
    readings = []
    if vitals.memory_used is not None and vitals.memory_total:
        share = vitals.memory_used / vitals.memory_total
        text = fraction(vitals.memory_used, vitals.memory_total)
        used = history.quantities["memory_used"]
        low, high = _memory_range(used)
        readings.append(Reading("memory", text, level_style(ink, share, 0.85, 0.95), used, low, high, share))
    if vitals.pressure is not None:
        readings.append(_pressure(ink, history, vitals.pressure))
    for name, label in (("worker_memory", "worker"), ("process_memory", "dashboard")):
        value, past = getattr(vitals, name), history.quantities[name]
        if value is not None:
            readings.append(Reading(label, size(value), ink.text, past, *_memory_range(past)))
    if vitals.swap_used is not None:
        readings.append(_swap(ink, history, vitals, vitals.swap_used))
    return readings


def _pressure(ink: Palette, history: VitalsHistory, pressure: MemoryPressure) -> Reading:
    style = {"ok": ink.status.good, "warning": ink.status.warn, "critical": ink.status.bad}[pressure.level]
    stalled = "" if pressure.stalled is None else f"{percent(pressure.stalled)} stalled"
    past = history.stalled if pressure.stalled is not None else ()
    value = " ".join(part for part in (pressure.level, stalled) if part)
    return Reading("pressure", value, style, past, 0.0, max([0.1, *past]), note=one_line(pressure.source, 24))


def _swap(ink: Palette, history: VitalsHistory, vitals: Vitals, used: int) -> Reading:
    past = history.quantities["swap_used"]
    if not vitals.swap_total:
        return Reading("swap", "none configured" if vitals.swap_total == 0 else size(used), ink.muted)
    return Reading("swap", fraction(used, vitals.swap_total), ink.text, past, *_memory_range(past))


def _memory_range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    missing = max(0.0, high * LEAST_GROWTH - (high - low)) / 2
    return low - missing, high + missing
