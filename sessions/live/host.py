"""Facts about this machine for the header."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import psutil

from moe_watch.routing.events import Host
from moe_watch.vitals import sysctl
from moe_watch.vitals.provider import UnavailableError


def host() -> Host:
    """Return the facts about this machine that matter to a measurement."""
    return Host(
        system=f"{platform.system()} {platform.release()}",
        machine=platform.machine(),
        processor=processor(),
        cores=psutil.cpu_count(logical=False) or psutil.cpu_count(),
        memory=psutil.virtual_memory().total,
        python=platform.python_version(),
    )


def processor(system: str = sys.platform, cpuinfo: Path = Path("/proc/cpuinfo")) -> str | None:
    """Return the processor's name as its vendor writes it; None if the system does not report it."""
    try:
        if system == "darwin":
            return sysctl.text("machdep.cpu.brand_string")
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        return names[0].partition(":")[2].strip() if names else None
    except (OSError, UnavailableError):
        return None
