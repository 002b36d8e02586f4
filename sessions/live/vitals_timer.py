"""Periodic reading of vitals during a live run."""

from __future__ import annotations

from moe_watch.routing.events import Vitals
from moe_watch.vitals.sampler import VitalsSampler

VITALS_SECONDS = 1.0


class VitalsTimer:
    """Sampler of vitals with the time of the next reading.

    Args:
        sampler: reads the vitals.
    """

    def __init__(self, sampler: VitalsSampler) -> None:
        self._sampler = sampler
        self._due = 0.0

    def begin(self, now: float) -> None:
        """Make a reading due now (monotonic seconds)."""
        self._due = now

    def put_off(self, now: float) -> None:
        """Make the next reading due in `VITALS_SECONDS`."""
        self._due = now + VITALS_SECONDS

    def read_due(self, now: float) -> Vitals | None:
        """Return a reading if one is due, otherwise None."""
        if now < self._due:
            return None
        self.put_off(now)
        return self._sampler.read()
