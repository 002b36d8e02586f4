"""Mark in the recording where memory pressure becomes critical."""

from __future__ import annotations

from moe_watch.routing.events import Vitals


class PressureMark:
    """Text of a warning, once per rise to `critical`; the next rise counts after the level was `ok` again.

    The step over `warning` is a hysteresis: a level that swings between `warning` and `critical` is marked once.
    """

    def __init__(self) -> None:
        self._armed = True

    def feed(self, vitals: Vitals) -> str | None:
        """Return the text if this reading begins a critical time, otherwise None."""
        level = None if vitals.pressure is None else vitals.pressure.level
        if level == "ok":
            self._armed = True
        if level != "critical" or not self._armed or vitals.pressure is None:
            return None
        self._armed = False
        return f"memory pressure is critical: {vitals.pressure.reason or vitals.pressure.source}"
