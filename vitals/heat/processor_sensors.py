"""Names of temperature sensors inside processors; only these measure whether the model overheats the machine."""

from __future__ import annotations

import re

from moe_watch.routing.events import Temperature, Vitals

_PROCESSOR = re.compile(
    r"(?:coretemp|k10temp|k8temp|zenpower|fam15h_power|x86_pkg_temp|tcpu|via_cputemp"  # Intel, AMD and VIA under Linux
    r"|(?:[a-z0-9]+[-_])*(?:cpu|gpu|soc)[a-z0-9]*(?:[-_][a-z0-9]+)*"  # Arm: cpu_thermal, gpu-thermal, soc_thermal, …
    r"|amdgpu|radeon|nouveau|xe|i915|nvidia|apple)\b",
    re.IGNORECASE,
)
"""First words of the sensors inside CPUs and GPUs. Drives, batteries, mainboards, memory modules and network cards are
not in it: they get warm for other reasons, and most board sensors (`acpitz`, Super I/O chips) measure the air."""


def is_processor(sensor: str) -> bool:
    """Return whether a sensor, named as in `Temperature`, is inside a CPU or GPU."""
    return _PROCESSOR.match(sensor) is not None


def hottest(vitals: Vitals) -> Temperature | None:
    """Return the hottest sensor inside a CPU or GPU; None if none was read."""
    found = (each for each in vitals.temperatures if is_processor(each.sensor))
    return max(found, key=lambda each: each.celsius, default=None)
