"""Checks of the machine: memory, disk for recordings, sensors, and the user's settings."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from moe_watch.backends.memory.available import AvailableMemory, available_memory
from moe_watch.routing.errors import UserError, reason_of
from moe_watch.routing.events import Vitals
from moe_watch.sessions.checking.results import CheckResult, failure, fine, gigabytes, warning
from moe_watch.sessions.paths import make_private, sessions_directory
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

SENSORS: dict[str, str] = {
    "swap_total": "swap",
    "pressure": "memory pressure",
    "temperatures": "temperatures",
    "throttling": "throttling",
}
"""Names of the checks of vitals, by the field of `Vitals` that has the value. Other vitals share one check."""
OTHER_SENSORS = "other readings"


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
    """Return the checks of one reading."""
    checks = [_sensor(name, field, vitals) for field, name in SENSORS.items()]
    said = {vitals.unavailable.get(field) for field in SENSORS}
    others = {
        field: why for field, why in vitals.unavailable.items() if field not in SENSORS and why not in said
    }  # `throttling_source` has the reason of `throttling`
    if not others:
        return [*checks, fine(OTHER_SENSORS, "all available")]
    listed = "; ".join(f"{field.replace('_', ' ')}: {why}" for field, why in others.items())
    return [*checks, warning(OTHER_SENSORS, f"unavailable: {listed}", "a run works without them")]


def _sensor(name: str, field: str, vitals: Vitals) -> CheckResult:
    if (why := vitals.unavailable.get(field)) is not None:
        return warning(name, f"unavailable: {why}", "a run works without it")
    return fine(name, _reading(field, vitals))


def _reading(field: str, vitals: Vitals) -> str:
    value = getattr(vitals, field)
    if field == "temperatures":
        readings = ", ".join(f"{each.sensor} {each.celsius:.0f} °C" for each in vitals.temperatures[:4])
        more = len(vitals.temperatures) - 4
        return f"{readings}, and {more} more" if more > 0 else readings or "none"
    if vitals.pressure is not None and field == "pressure":
        stalled = vitals.pressure.stalled
        share = "" if stalled is None else f", {100 * stalled:.1f} % of the time stalled"
        return f"{vitals.pressure.level} ({vitals.pressure.source}{share})"
    if isinstance(value, bool):
        return "throttled now" if value else "not throttled"
    if field == "swap_total" and value == 0:
        return "no swap is configured"
    return gigabytes(value) if isinstance(value, int) else str(msgspec.to_builtins(value))


# -- settings


def settings_check(path: Path | None = None) -> CheckResult:
    """Check the user's settings file."""
    file = settings_file() if path is None else path
    try:
        read_user_settings(file)
    except UserError as error:
        return failure("settings", error.what, error.advice)
    return fine("settings", str(file) if file.exists() else f"defaults; {file} does not exist")
