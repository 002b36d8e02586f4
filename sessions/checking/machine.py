"""Checks of the machine: memory, disk for recordings, sensors, and the user's settings."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from moe_watch.backends.memory.available import AvailableMemory, available_memory
from moe_watch.routing.errors import UserError, reason_of
from moe_watch.routing.events import Vitals
from moe_watch.sessions.checking.results import CheckResult, failure, fine, gigabytes, warning
from moe_watch.sessions.paths import make_private, sessions_directory
from moe_watch.sessions.text import plural
from moe_watch.sessions.user_settings import read_user_settings, settings_file
from moe_watch.vitals.cgroup import group_memory
from moe_watch.vitals.sampler import VitalsSampler

LEAST_MEMORY = 1_000_000_000
"""Bytes. pocket and the dashboard take a third of it; no published Mixture-of-Experts model fits into it."""
LEAST_DISK = 50_000_000
"""Bytes: about 100,000 tokens of a model of 48 layers with 8 experts per token, compressed."""
LITTLE_DISK = 1_000_000_000
BETWEEN_READINGS = 0.2
"""Seconds between two readings of the sensors: some count events, and have a value from the second one on."""

SOURCES: dict[str, tuple[str, ...]] = {
    "swap": ("swap_total", "swapped_in"),
    "disk reads": ("worker_read", "worker_faults"),
    "memory pressure": ("pressure",),
    "memory group": ("group_events",),
    "temperatures": ("temperatures",),
    "thermal level": ("thermal_level",),
    "clocks": ("clocks",),
    "GPU memory": ("gpu_memory",),
    "throttling": ("throttling",),
}
"""Names of the checks of vitals, with the fields of `Vitals` that each shows."""
ELSEWHERE = {"thermal_level": "macOS has one", "gpu_memory": "read on Linux with the driver of NVIDIA"}
"""Fields that no provider of some systems has, with the system that has them."""
NOT_LIMITED = "no memory limit: this process is in no control group with one"
NO_SWAP = "no swap is configured"
WITHOUT = "a run works without it"
SHARED = frozenset({"swap_used", "swapped_out", "throttling_source"})
"""Fields that are unavailable together with another field, for the same reason."""
MOST_SHOWN = 4
"""Sensors or clocks of one line."""


# -- memory


def memory_check(available: Callable[[], AvailableMemory] = lambda: available_memory(group_memory)) -> CheckResult:
    """Check the memory that a new process can take."""
    found = available()
    value = f"{gigabytes(found.bytes)} {found.words} of {gigabytes(found.total)}"
    if found.bytes < LEAST_MEMORY:
        return warning("memory", value, "close other programs; `moe-watch memory MODEL` says what a model takes")
    return fine("memory", value)


# -- disk


def disk_check(folder: Path | None = None) -> CheckResult:
    """Check that a recording can be written: a file is created in its folder, written, synced and deleted.

    Args:
        folder: folder of the recordings; None for the user's.
    """
    place = sessions_directory() if folder is None else folder
    try:
        make_private(place)
        _probe(place)
        free = shutil.disk_usage(place).free
    except OSError as error:
        advice = "make it writable, or record elsewhere with --output FILE"
        return failure("disk", f"{place}: cannot be written ({reason_of(error)})", advice)
    value = f"{gigabytes(free)} free for recordings in {place}"
    if free < LEAST_DISK:
        return failure("disk", value, "make room, or record to another disk with --output FILE")
    if free < LITTLE_DISK:
        return warning("disk", value, "make room: a long run takes some hundred MB")
    return fine("disk", value)


def _probe(folder: Path) -> None:
    descriptor, name = tempfile.mkstemp(prefix=".check-", dir=folder)
    try:
        os.write(descriptor, b"probe\n")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
        os.unlink(name)


# -- sensors


def sensor_checks(
    sampler: VitalsSampler | None = None, *, pause: Callable[[float], None] = time.sleep
) -> list[CheckResult]:
    """Check which vitals can be read. A reading that is unavailable is a warning with its reason, never a failure.

    Args:
        sampler: reader of the vitals; None for all providers of this machine.
        pause: waits between the two readings.
    """
    reader = VitalsSampler(time.monotonic, os.getpid) if sampler is None else sampler
    reader.read()
    pause(BETWEEN_READINGS)
    return sensor_results(reader.read())


def sensor_results(vitals: Vitals) -> list[CheckResult]:
    """Return the checks of one reading, in which the worker is this process."""
    return [
        *(_source(name, fields, vitals) for name, fields in SOURCES.items()),
        *(_unavailable(field.replace("_", " "), why) for field, why in vitals.unavailable.items() if _is_other(field)),
    ]


def _is_other(field: str) -> bool:
    """Return whether no check of `SOURCES` has this field, or this sensor."""
    return not any(field in fields for fields in SOURCES.values()) and field not in SHARED


def _source(name: str, fields: Sequence[str], vitals: Vitals) -> CheckResult:
    reasons = dict.fromkeys(vitals.unavailable[field] for field in fields if field in vitals.unavailable)
    present = [each for field in fields if (each := READINGS[field](vitals))]
    if name == "memory group" and vitals.group_events is None:
        return fine(name, next(iter(reasons), NOT_LIMITED))
    if present:
        value = "; ".join([*present, *(f"unavailable: {why}" for why in reasons)])
        return (warning if reasons else fine)(name, value, WITHOUT if reasons else "")
    if reasons:
        return _unavailable(name, "; ".join(reasons))
    elsewhere = ELSEWHERE.get(fields[0])
    return fine(name, f"none on this system: {elsewhere}") if elsewhere else _unavailable(name, "no value was read")


def _unavailable(name: str, why: str) -> CheckResult:
    return warning(name, f"unavailable: {why}", WITHOUT)


# Each returns a reading in words; empty if there is none.


def _swap(vitals: Vitals) -> str:
    if vitals.swap_total is None:
        return ""
    return (
        f"{gigabytes(vitals.swap_used or 0)} of {gigabytes(vitals.swap_total)} used" if vitals.swap_total else NO_SWAP
    )


def _swapped(vitals: Vitals) -> str:
    if vitals.swapped_in is None or not vitals.swap_total:
        return ""
    moved = f"{gigabytes(vitals.swapped_in)} read back"
    return (
        moved if vitals.swapped_out is None else f"{moved} and {gigabytes(vitals.swapped_out)} written since the start"
    )


def _read(vitals: Vitals) -> str:
    return "" if vitals.worker_read is None else f"counted: {gigabytes(vitals.worker_read)} by this process"


def _faults(vitals: Vitals) -> str:
    return "" if vitals.worker_faults is None else plural(vitals.worker_faults, "major page fault")


def _pressure(vitals: Vitals) -> str:
    if vitals.pressure is None:
        return ""
    stalled = vitals.pressure.stalled
    share = "" if stalled is None else f", {100 * stalled:.1f} % of the time stalled"
    return f"{vitals.pressure.level} ({vitals.pressure.source}{share})"


def _group(vitals: Vitals) -> str:
    events = vitals.group_events or {}
    return (
        "events since its creation: " + ", ".join(f"{name} {count}" for name, count in events.items()) if events else ""
    )


def _temperatures(vitals: Vitals) -> str:
    return _first(f"{each.sensor} {each.celsius:.0f} °C" for each in vitals.temperatures)


def _clocks(vitals: Vitals) -> str:
    return _first(
        f"{each.device} {each.mhz:,.0f}" + (f" of {each.max:,.0f} MHz" if each.max else " MHz")
        for each in vitals.clocks
    )


def _gpu_memory(vitals: Vitals) -> str:
    return _first(f"{each.device} {gigabytes(each.used)} of {gigabytes(each.total)}" for each in vitals.gpu_memory)


def _throttling(vitals: Vitals) -> str:
    if vitals.throttling is None:
        return ""
    source = f" ({vitals.throttling_source})" if vitals.throttling_source else ""
    return ("throttled now" if vitals.throttling else "not throttled") + source


def _first(words: Iterable[str]) -> str:
    """Return the first readings in one line, with the number of others."""
    found = list(words)
    more = len(found) - MOST_SHOWN
    shown = ", ".join(found[:MOST_SHOWN])
    return f"{shown}, and {more} more" if more > 0 else shown


READINGS: dict[str, Callable[[Vitals], str]] = {
    "swap_total": _swap,
    "swapped_in": _swapped,
    "worker_read": _read,
    "worker_faults": _faults,
    "pressure": _pressure,
    "group_events": _group,
    "temperatures": _temperatures,
    "thermal_level": lambda vitals: vitals.thermal_level or "",
    "clocks": _clocks,
    "gpu_memory": _gpu_memory,
    "throttling": _throttling,
}


# -- settings


def settings_check(path: Path | None = None) -> CheckResult:
    """Check the user's settings file."""
    file = settings_file() if path is None else path
    try:
        read_user_settings(file)
    except UserError as error:
        return failure("settings", error.what, error.advice)
    return fine("settings", str(file) if file.exists() else f"defaults; {file} does not exist")
