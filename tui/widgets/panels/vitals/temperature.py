"""Readings of temperature and throttling in the vitals panel."""

from __future__ import annotations

from moe_watch.routing.events import Temperature, Vitals
from moe_watch.tui.drawing.colours import Palette
from moe_watch.tui.state.vitals_history import VitalsHistory
from moe_watch.tui.text.format import number
from moe_watch.tui.text.sanitize import one_line
from moe_watch.tui.widgets.panels.vitals.reading import LABEL_WIDTH, Reading, level_style

LEAST_DEGREES = 10.0
"""Least range of a temperature's history, in °C."""

LABELS = {"temperatures": "temperature", "throttling": "throttling"}
"""Labels of absent readings by field of `Vitals`."""


def temperature_readings(ink: Palette, history: VitalsHistory, vitals: Vitals) -> list[Reading]:
    """Return the readings of temperature and throttling that are present."""
    readings = [_temperature(ink, history, temperature) for temperature in vitals.temperatures]
    if vitals.throttling is not None:
        text, style = (
            ("yes: slowed down by heat or power", ink.status.bad) if vitals.throttling else ("no", ink.status.good)
        )
        readings.append(Reading("throttling", text, style))
    return readings


def _temperature(ink: Palette, history: VitalsHistory, temperature: Temperature) -> Reading:
    past = history.sensors.get(temperature.sensor, ())
    high = temperature.high
    share = 0.0 if not high else temperature.celsius / high
    low_end = min(past, default=temperature.celsius)
    high_end = max(max(past, default=temperature.celsius), low_end + LEAST_DEGREES)
    value = f"{number(temperature.celsius, 0)} °C" + (f" of {number(high, 0)}" if high else "")
    label = one_line(temperature.sensor, LABEL_WIDTH - 1)
    return Reading(label, value, level_style(ink, share, 0.85, 0.95), past, low_end, high_end)
