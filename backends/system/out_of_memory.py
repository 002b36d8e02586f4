"""How a lack of memory is told, and what to do about it. Imports nothing heavy."""

from __future__ import annotations

import os
import re

SAID = re.compile(
    "insufficient memory|(?:unable|failed) to allocate|mmap failed|bad_alloc|[Oo]ut of memory|Cannot allocate memory"
)
"""How engines, their devices, the C++ runtime and the system say that there is not enough of it."""

SMALLER_MODEL = "free memory, or give a smaller model"
SMALLER_CONTEXT = "free memory, or give a smaller --context"
SMALLER = "free memory, or give a smaller model or --context"


def total_memory() -> int | None:
    """Bytes of memory that this machine has; None if the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def beyond_memory(stored_bytes: int) -> str | None:
    """What to know beforehand of weights that this machine's memory cannot hold; None if it can.

    No reason to refuse them: a GPU may have memory of its own, and what is mapped from a file is read again and again.
    """
    total = total_memory()
    if total is None or stored_bytes <= total:
        return None
    return f"{stored_bytes / 1e9:.1f} GB of weights, more than this machine's memory of {total / 1e9:.1f} GB"
