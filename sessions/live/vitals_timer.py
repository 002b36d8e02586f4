"""Periodic reading of vitals during a live run, and the mark where memory pressure becomes critical."""

from __future__ import annotations

import msgspec

from moe_watch.routing.events import ModelMemory, Vitals
from moe_watch.vitals.sampler import VitalsSampler

VITALS_SECONDS = 0.5
"""Seconds between two readings; `python -m benchmarks.vitals_cost` measures their cost."""


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


class VitalsTimer:
    """Sampler of vitals with the time of the next reading.

    Args:
        sampler: reads the vitals.
    """

    def __init__(self, sampler: VitalsSampler) -> None:
        self._sampler = sampler
        self.model_memory: ModelMemory | None = None
        """Counters that the worker reported last; they are part of the next reading."""
        self.pressure_mark = PressureMark()
        self._due = 0.0

    def begin(self, now: float) -> None:
        """Make the first reading of a run due now (monotonic seconds). Each run marks critical pressure again."""
        self._due = now
        self.pressure_mark = PressureMark()

    def put_off(self, now: float) -> None:
        """Make the next reading due in `VITALS_SECONDS`."""
        self._due = now + VITALS_SECONDS

    def read_due(self, now: float) -> Vitals | None:
        """Return a reading if one is due, otherwise None."""
        if now < self._due:
            return None
        self.put_off(now)
        vitals = self._sampler.read()
        if self.model_memory is None:
            return vitals
        return msgspec.structs.replace(vitals, model_memory=self.model_memory)
