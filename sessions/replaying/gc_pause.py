"""Pause of Python's garbage collector during a seek."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_collection() -> Iterator[None]:
    """Disable garbage collection while a seek allocates many long lists, and the one they would cause afterwards."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # together they move all objects to the oldest generation without a collection
        gc.unfreeze()
        if was_on:
            gc.enable()
