"""Linux pressure stall information (PSI) of memory: of the machine, or of one control group.

A file has two lines, such as `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`
(https://docs.kernel.org/accounting/psi.html).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from moe_watch.vitals.provider import UnavailableError

MACHINE = Path("/proc/pressure/memory")
LONGEST_FILE = 4096
"""Characters."""

_LINE = re.compile(r"^(some|full) avg10=(\d+(?:\.\d+)?) ", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Stalls:
    """Shares of the last 10 s, 0..1."""

    some: float
    """With at least one task waiting for memory."""
    full: float | None
    """With all tasks waiting that could run; None in files of old kernels."""
    of_group: bool = False
    """Of this process's control group, not of the machine."""


def read_stalls(path: Path = MACHINE, *, of_group: bool = False) -> Stalls:
    """Read one PSI file.

    Raises:
        UnavailableError: the kernel has no such file, or its numbers are no shares.
    """
    try:
        with path.open() as file:
            found = dict(_LINE.findall(file.read(LONGEST_FILE)))
    except OSError as error:
        raise UnavailableError("the kernel has no pressure stall information (PSI)") from error
    if "some" not in found:
        raise UnavailableError(f"{path} has no `some avg10`")
    for percent in found.values():
        if float(percent) > 100:
            raise UnavailableError(f"{path} gives {percent} % of the time, which is more than 100 %")
    full = round(float(found["full"]) / 100, 4) if "full" in found else None
    return Stalls(round(float(found["some"]) / 100, 4), full, of_group)
