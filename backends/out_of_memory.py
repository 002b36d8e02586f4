"""How a lack of memory is told, and what to do about it. Imports nothing heavy."""

from __future__ import annotations

import re

SAID = re.compile(
    "insufficient memory|(?:unable|failed) to allocate|mmap failed|bad_alloc|[Oo]ut of memory|Cannot allocate memory"
)
"""How engines, their devices, the C++ runtime and the system say that there is not enough of it."""

SMALLER_MODEL = "free memory, or give a smaller model"
SMALLER_CONTEXT = "free memory, or give a smaller --context"
SMALLER = "free memory, or give a smaller model or --context"
