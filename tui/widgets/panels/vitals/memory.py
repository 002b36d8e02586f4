"""Readings of memory in the vitals panel: the machine, its pressure, the disk, the model, the processes, and swap."""

from __future__ import annotations

from collections.abc import Sequence

from moe_watch.routing.events import MemoryPressure, ModelMemory, Vitals
from moe_watch.routing.header import Buffer
from moe_watch.sessions.text import plural
from moe_watch.tui.drawing.colours import Palette
from moe_watch.tui.state.run import RunView
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
    "worker_read": "disk",
    "worker_faults": "page faults",
    "swapped_in": "swap rate",
    "swapped_out": "swap rate",
    "model_memory": "model",
}
"""Labels of absent readings by field of `Vitals`."""

KINDS = {"weights": "weights", "kv": "KV", "compute": "compute"}
"""Words for the kinds of buffers."""
LEAST_SPEED = 1e6
"""Least range of the history of a rate, in bytes per second."""
MUCH_READ = 10e6
"""Bytes per second from which the rate of the disk is shown as a warning."""
MOST_DEVICES = 8


def memory_readings(ink: Palette, view: RunView) -> list[Reading]:
    """Return the readings of memory that are present, the most important first."""
    history, vitals = view.vitals, view.vitals.last
    if vitals is None:
        return []
    readings = []
    if vitals.memory_used is not None and vitals.memory_total:
        share = vitals.memory_used / vitals.memory_total
        text = fraction(vitals.memory_used, vitals.memory_total)
        used = history.quantities["memory_used"]
        low, high = _memory_range(used)
        readings.append(Reading("memory", text, level_style(ink, share, 0.85, 0.95), used, low, high, share))
    if vitals.pressure is not None:
        readings += _pressure(ink, history, vitals.pressure)
    if vitals.worker_read is not None:
        readings.append(_disk(ink, history))
    readings += _model(ink, view, vitals.model_memory)
    if vitals.worker_memory is not None:
        readings.append(_process(ink, history, "worker", "worker_memory", vitals.worker_memory))
    if vitals.swap_used is not None:
        readings.append(_swap(ink, history, vitals, vitals.swap_used))
    if vitals.swap_total:
        readings += _swapping(ink, history)
    if vitals.process_memory is not None:
        readings.append(_process(ink, history, "dashboard", "process_memory", vitals.process_memory))
    return readings


def _process(ink: Palette, history: VitalsHistory, label: str, name: str, value: int) -> Reading:
    past = history.quantities[name]
    return Reading(label, size(value), ink.text, past, *_memory_range(past))


def _disk(ink: Palette, history: VitalsHistory) -> Reading:
    """Return bytes that the worker reads per second and per decode token; 0 if the page cache holds the model."""
    rate, per_token = history.rates.rate("worker_read"), history.rates.per_token("worker_read")
    if rate is None:
        return Reading("disk", "from the second reading on", ink.muted)
    token = "" if per_token is None else f" · {size(round(per_token))}/token"
    faults = history.rates.rate("worker_faults")
    note = f"{plural(round(faults), 'fault')}/s" if faults is not None and round(faults) else ""
    past = history.speeds["worker_read"]
    style = ink.status.warn if rate >= MUCH_READ else ink.text
    return Reading("disk", f"{_speed(rate)}{token}", style, past, 0.0, max(LEAST_SPEED, *past), note=note)


def _model(ink: Palette, view: RunView, counters: ModelMemory | None) -> list[Reading]:
    """Return the memory of the model: MLX's counters, or llama.cpp's buffers by device."""
    if counters is not None:
        past = view.vitals.model_active
        note = f"peak {size(counters.peak)}, cache {size(counters.cache)}"
        return [Reading("model", size(counters.active), ink.text, past, *_memory_range(past), note=note)]
    buffers = (view.header.backend.buffers if view.header is not None else None) or []
    devices: dict[str, list[Buffer]] = {}
    for buffer in buffers:
        devices.setdefault(buffer.device, []).append(buffer)
    readings: list[Reading] = []
    for device, parts in list(devices.items())[:MOST_DEVICES]:
        kinds = " · ".join(f"{KINDS[part.kind]} {size(part.bytes)}" for part in parts)
        note = f"{one_line(device, 20)}: {kinds}"
        readings.append(
            Reading("" if readings else "model", size(sum(part.bytes for part in parts)), ink.text, note=note)
        )
    return readings


def _pressure(ink: Palette, history: VitalsHistory, pressure: MemoryPressure) -> list[Reading]:
    """Return the level with stalled time, and its reason below it."""
    style = {"ok": ink.status.good, "warning": ink.status.warn, "critical": ink.status.bad}[pressure.level]
    stalled = "" if pressure.stalled is None else f"{percent(pressure.stalled)} stalled"
    past = history.stalled if pressure.stalled is not None else ()
    value = " ".join(part for part in (pressure.level, stalled) if part)
    note = one_line(pressure.source, 24)
    level = Reading("pressure", value, style, past, 0.0, max([0.1, *past]), note=note)
    return [level, Reading("", one_line(pressure.reason, 200), style)] if pressure.reason else [level]


def _swap(ink: Palette, history: VitalsHistory, vitals: Vitals, used: int) -> Reading:
    past = history.quantities["swap_used"]
    if not vitals.swap_total:
        return Reading("swap", "none configured" if vitals.swap_total == 0 else size(used), ink.muted)
    return Reading("swap", fraction(used, vitals.swap_total), ink.text, past, *_memory_range(past))


def _swapping(ink: Palette, history: VitalsHistory) -> list[Reading]:
    into, out = history.rates.rate("swapped_in"), history.rates.rate("swapped_out")
    if into is None or out is None:
        return []
    past = history.speeds["swapped_in"]
    value = f"{_speed(into)} in · {_speed(out)} out"
    style = ink.status.warn if into else ink.text
    return [Reading("swap rate", value, style, past, 0.0, max(LEAST_SPEED, *past))]


def _speed(bytes_per_second: float) -> str:
    return f"{size(round(bytes_per_second))}/s"


def _memory_range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    missing = max(0.0, high * LEAST_GROWTH - (high - low)) / 2
    return low - missing, high + missing
