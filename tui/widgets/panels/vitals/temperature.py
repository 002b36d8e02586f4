"""Readings of temperature, clocks and throttling in the vitals panel."""

from __future__ import annotations

from collections.abc import Sequence

from rich.style import Style

from moe_watch.routing.events import Clock, GpuMemory, Temperature, Vitals
from moe_watch.routing.stats.slowdown import Slowdown
from moe_watch.tui.drawing.colours import Palette
from moe_watch.tui.state.vitals_history import VitalsHistory
from moe_watch.tui.text.format import fraction, number, signed
from moe_watch.tui.text.sanitize import one_line
from moe_watch.tui.widgets.panels.vitals.reading import LABEL_WIDTH, Reading, level_style

LEAST_DEGREES = 10.0
"""Least range of a temperature's history, in °C."""
NEAR_LIMIT = 10.0
"""Degrees below its limit from which a sensor is a warning."""

LABELS = {
    "temperatures": "temperature",
    "throttling": "throttling",
    "thermal_level": "thermal",
    "clocks": "clock",
    "gpu_memory": "GPU memory",
}
"""Labels of absent readings by field of `Vitals`."""
SAME_REASON = frozenset({"throttling_source"})
"""Absent fields whose reason another field gives."""


def temperature_readings(ink: Palette, history: VitalsHistory, vitals: Vitals) -> list[Reading]:
    """Return the readings of temperature, clocks and throttling that are present."""
    readings = [_temperature(ink, history, temperature) for temperature in vitals.temperatures]
    if vitals.thermal_level is not None:
        styles = {"nominal": ink.status.good, "fair": ink.text, "serious": ink.status.warn, "critical": ink.status.bad}
        readings.append(Reading("thermal", vitals.thermal_level, styles[vitals.thermal_level], note="level of macOS"))
    readings += [_clock(ink, history, clock) for clock in vitals.clocks]
    readings += [_gpu_memory(ink, memory) for memory in vitals.gpu_memory]
    if vitals.throttling is not None:
        readings += _counted(ink, vitals.throttling, vitals.throttling_source)
    elif vitals.clocks:
        readings.append(_inferred(ink, history.slowdown.last))
    return readings


def _temperature(ink: Palette, history: VitalsHistory, temperature: Temperature) -> Reading:
    past = history.sensors.get(temperature.sensor, ())
    high = temperature.high
    low_end = min(past, default=temperature.celsius)
    high_end = max(max(past, default=temperature.celsius), low_end + LEAST_DEGREES)
    value = f"{number(temperature.celsius, 0)} °C" + (f" of {number(high, 0)}" if high else "")
    name = one_line(temperature.sensor, 24)
    note = name if len(name) >= LABEL_WIDTH else ""
    return Reading(
        one_line(name, LABEL_WIDTH - 1), value, _heat_style(ink, temperature), past, low_end, high_end, note=note
    )


def _heat_style(ink: Palette, temperature: Temperature) -> Style:
    """Return the style by the sensor's own limits; without any, no temperature is a warning."""
    limits = [each for each in (temperature.high, temperature.critical) if each is not None]
    if not limits:
        return ink.text
    limit = min(limits)
    return level_style(ink, temperature.celsius, limit - NEAR_LIMIT, limit)


def _clock(ink: Palette, history: VitalsHistory, clock: Clock) -> Reading:
    past: Sequence[float] = history.clocks.get(clock.device, ())
    top = clock.max or max(past, default=clock.mhz)
    value = f"{clock.mhz / 1000:.2f} GHz" + (f" of {clock.max / 1000:.2f}" if clock.max else "")
    name = one_line(clock.device, LABEL_WIDTH - 1)
    label = "CPU clock" if name == "CPU" else "GPU clock" if name == "GPU" else name
    note = "" if label.endswith("clock") else "clock"
    return Reading(label, value, ink.text, past, 0.0, max(top, 1.0), note=note)


def _gpu_memory(ink: Palette, memory: GpuMemory) -> Reading:
    share = memory.used / memory.total if memory.total else 0.0
    name = one_line(memory.device, LABEL_WIDTH - 1)
    return Reading(name, fraction(memory.used, memory.total), level_style(ink, share, 0.9, 0.98), note="memory")


def _counted(ink: Palette, throttling: bool, source: str | None) -> list[Reading]:
    """Return throttling as counters report it; if it is on, the source has a line below."""
    origin = one_line(source or "", 80)
    if not throttling:
        return [Reading("throttling", "no", ink.status.good, note=origin)]
    found = [Reading("throttling", "yes: slowed down by heat or power", ink.status.bad)]
    return [*found, Reading("", origin, ink.status.bad)] if origin else found


def _inferred(ink: Palette, found: Slowdown) -> Reading:
    """Return throttling as it follows from speed and clock, with both numbers."""
    if found.throttled is None:
        return Reading("inferred", f"n/a: {one_line(found.why, 200)}", ink.faint)
    if not found.throttled:
        return Reading("inferred", "no throttling", ink.muted, note=_numbers(found))
    return Reading("inferred", f"throttled: {_numbers(found)}", ink.status.warn)


def _numbers(found: Slowdown) -> str:
    falls = (("tok/s", found.speed_fall), ("clock", found.clock_fall))
    return " ".join(f"{name} {signed(-100 * fall, 0)} %" for name, fall in falls)
