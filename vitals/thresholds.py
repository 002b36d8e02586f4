"""Thresholds of the memory pressure level; a user sets them in the table `[memory]` of the settings file."""

from __future__ import annotations

import msgspec

FULL_STALL = 1.0
"""Share of stalled time that nothing exceeds."""


class MemoryThresholds(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Values from which the level is `warning` or `critical`; docs/vitals.md has the rule and the sources."""

    warning_stall: float = 0.10
    """Share of time with a task waiting for memory (Linux PSI `some avg10`, 0 to 1) from which the level is `warning`.
    systemd warns services at the same share, 200 ms in 2 s."""
    critical_stall: float = 0.40
    """Share from which the level is `critical`. It is well below the 0.60 at which systemd-oomd starts to kill, so that
    the user has time to stop a run."""
    warning_full: float = 0.05
    """Share of time with all tasks waiting (`full avg10`) from which the level is `warning`."""
    critical_full: float = 0.20
    """Share of time with all tasks waiting from which the level is `critical`."""
    warning_available: float = 0.10
    """Share of memory that is available, at or below which the level is `warning`. earlyoom ends processes at it."""
    critical_available: float = 0.05
    """Share of memory that is available, at or below which the level is `critical`. earlyoom kills processes at it."""
    warning_swap_in: float = 10e6
    """Bytes per second read from swap from which the level is `warning`."""

    def mistake(self) -> str:
        """Return the first value that cannot be used, in one line; empty if all can be."""
        for name in ("stall", "full", "available"):
            warning, critical = f"warning_{name}", f"critical_{name}"
            for each in (warning, critical):
                if not 0 <= getattr(self, each) <= FULL_STALL:
                    return f"{each} is {getattr(self, each):g}, outside 0 to 1"
            first, second = (critical, warning) if name == "available" else (warning, critical)
            if getattr(self, first) > getattr(self, second):
                return f"{first} is {getattr(self, first):g}, above {second}, {getattr(self, second):g}"
        if not 0 < self.warning_swap_in < float("inf"):
            return f"warning_swap_in is {self.warning_swap_in:g}, not a number of bytes per second above 0"
        return ""
