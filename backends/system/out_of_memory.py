"""Messages about too little memory, and advice. Imports nothing heavy."""

from __future__ import annotations

import os
import re
import resource

SAID = re.compile(
    "insufficient memory|(?:unable|failed) to allocate|mmap failed|bad_alloc|[Oo]ut of memory|Cannot allocate memory"
    "|mem_buffer != NULL"
)
"""Messages of engines, devices, the C++ runtime and the system about failed allocations."""

WHAT_FITS = "(`moe-watch memory MODEL` lists what fits)"
SMALLER_MODEL = f"free memory, or give a smaller model {WHAT_FITS}"
SMALLER_CONTEXT = f"free memory, or give a smaller --context {WHAT_FITS}"
SMALLER = f"free memory, or give a smaller model or --context {WHAT_FITS}"


def address_space_limit() -> int | None:
    """Return the limit on the address space of a process in bytes (`ulimit -v`); None if there is none."""
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft


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
