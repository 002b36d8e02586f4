"""History of the machine's vitals, in bounded memory."""

from __future__ import annotations

from collections import deque

from moe_watch.routing.events import Vitals
from moe_watch.routing.stats.slowdown import Device, SlowdownEstimator
from moe_watch.tui.state.counter_rates import COUNTERS, CounterRates

READINGS_KEPT = 240
SENSORS_KEPT = 32
"""Bound of the number of sensors; a file may name any number."""

QUANTITIES = ("memory_used", "swap_used", "process_memory", "worker_memory")


class VitalsHistory:
    """The newest `Vitals`, and a history of every quantity in it.

    `last` is immutable. Each history is a bounded deque of numbers: `tuple()` of it is a snapshot.
    """

    def __init__(self, device: Device = "cpu") -> None:
        self.last: Vitals | None = None
        self.seen = 0
        """Number of readings so far."""
        self.quantities: dict[str, deque[float]] = {name: deque(maxlen=READINGS_KEPT) for name in QUANTITIES}
        self.rates = CounterRates()
        self.speeds: dict[str, deque[float]] = {name: deque(maxlen=READINGS_KEPT) for name in COUNTERS}
        """Growth per second of each counter, from reading to reading."""
        self.model_active: deque[float] = deque(maxlen=READINGS_KEPT)
        """Bytes in use by MLX's arrays."""
        self.stalled: deque[float] = deque(maxlen=READINGS_KEPT)
        """Share of time in which tasks waited for memory."""
        self.sensors: dict[str, deque[float]] = {}
        """Degrees Celsius by sensor."""
        self.clocks: dict[str, deque[float]] = {}
        """Megahertz by device."""
        self.slowdown = SlowdownEstimator(device)
        """Throttling inferred from speed and clocks; fed with all events of the run."""

    def add(self, vitals: Vitals) -> None:
        """Add a reading."""
        self.last = vitals
        self.seen += 1
        for name, history in self.quantities.items():
            value = getattr(vitals, name)
            if value is not None:
                history.append(float(value))
        self.rates.add(vitals)
        for name, speeds in self.speeds.items():
            if (speed := self.rates.newest(name)) is not None:
                speeds.append(speed)
        if vitals.model_memory is not None:
            self.model_active.append(float(vitals.model_memory.active))
        if vitals.pressure is not None and vitals.pressure.stalled is not None:
            self.stalled.append(vitals.pressure.stalled)
        for temperature in vitals.temperatures:
            _extend(self.sensors, temperature.sensor, temperature.celsius)
        for clock in vitals.clocks:
            _extend(self.clocks, clock.device, clock.mhz)
        self.slowdown.feed(vitals)


def _extend(histories: dict[str, deque[float]], name: str, value: float) -> None:
    if name not in histories:
        if len(histories) >= SENSORS_KEPT:
            return
        histories[name] = deque(maxlen=READINGS_KEPT)
    histories[name].append(value)
