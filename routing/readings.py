"""Parts of a `Vitals` event: readings of temperature, clock and memory.

Fixed names: docs/session-format.md.
"""

from __future__ import annotations

from typing import Literal

import msgspec

ThermalLevel = Literal["nominal", "fair", "serious", "critical"]


class Temperature(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Reading of one temperature sensor."""

    sensor: str
    celsius: float
    high: float | None = None
    """Limit that the sensor's driver states; of an NVIDIA GPU, the temperature at which it slows down."""
    critical: float | None = None
    """Limit at which the machine shuts down or throttles hard."""


class Clock(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Clock frequency of one processor."""

    device: str
    kind: Literal["cpu", "gpu"]
    mhz: float
    max: float | None = None
    """Highest frequency of the device, in MHz."""


class GpuMemory(msgspec.Struct, frozen=True, kw_only=True):
    """Memory of one GPU, of all processes, in bytes."""

    device: str
    used: int
    total: int


class MemoryPressure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Memory pressure of the system, from one named source."""

    level: Literal["ok", "warning", "critical"]
    source: str
    """Quantity that gave the level; at `ok` the first quantity that could be read."""
    stalled: float | None = None
    """Share of the last 10 s in which some task waited for memory, 0..1 (Linux PSI `some avg10`): of the machine or of
    this process's control group, whichever is higher."""
    stalled_full: float | None = None
    """Share in which all tasks that could run waited for it (`full avg10`)."""
    reason: str = ""
    """Quantity, value and threshold in words; empty at `ok`."""


class ModelMemory(msgspec.Struct, frozen=True, kw_only=True):
    """Counters of MLX's allocator in bytes."""

    active: int
    """Memory in use by arrays."""
    peak: int
    """Largest `active` since the worker's start."""
    cache: int
    """Freed memory that MLX keeps for further arrays."""
