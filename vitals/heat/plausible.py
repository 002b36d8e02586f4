"""Plausibility of temperature readings: values that broken and unconnected sensors report."""

from __future__ import annotations

import math
import re

LOWEST, HIGHEST = -40.0, 125.0
"""°C. Chips are rated within this range. Open inputs read 127, 127.5 or -128, missing ones 255, failed ones -273."""

STUCK = {0.0: "a sensor that is not connected", 65.535: "the largest number of its register"}
"""Readings of broken sensors inside that range. 65.535 is 65535 thousandths of a degree."""

THRESHOLD = re.compile(
    r"\b(?:crit(?:ical)?|emerg(?:ency)?|max(?:imum)?|min(?:imum)?|high|low|limit|thresh(?:old)?|trip|alarm|hyst(?:eresis)?"
    r"|tj_?max|t_?control|offset|target|setpoint)\b",
    re.IGNORECASE,
)
"""Words in labels of values that are not measurements: a limit, or the distance to a limit."""


def doubt(label: str, celsius: float | None) -> str | None:
    """Return why a reading cannot be the machine's temperature; None if it can."""
    if celsius is None or math.isnan(celsius):
        return "the sensor reports no number"
    if threshold := THRESHOLD.search(label):
        return f"by its name ({threshold[0]}) a limit, not a measurement"
    if not LOWEST < celsius < HIGHEST:
        return f"it reads {celsius:g} °C, which no running machine has"
    if celsius in STUCK:
        return f"it reads {celsius:g} °C: {STUCK[celsius]}"
    return None
