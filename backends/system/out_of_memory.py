"""Messages about too little memory, and advice. Imports nothing heavy."""

from __future__ import annotations

import os
import re

SAID = re.compile(
    "insufficient memory|(?:unable|failed) to allocate|mmap failed|bad_alloc|[Oo]ut of memory|Cannot allocate memory"
)
"""Messages of engines, devices, the C++ runtime and the system about failed allocations."""

SMALLER_MODEL = "free memory, or give a smaller model"
SMALLER_CONTEXT = "free memory, or give a smaller --context"
SMALLER = "free memory, or give a smaller model or --context"


def total_memory() -> int | None:
    """Return this machine's memory in bytes; None if the system does not report it."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def beyond_memory(stored_bytes: int) -> str | None:
    """Return a warning about weights larger than this machine's memory; None if they fit.

    They are not refused: a GPU may have separate memory, and pages of a mapped file can be reloaded.
    """
    total = total_memory()
    if total is None or stored_bytes <= total:
        return None
    return f"{stored_bytes / 1e9:.1f} GB of weights, more than this machine's memory of {total / 1e9:.1f} GB"
