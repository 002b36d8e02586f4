"""Where Python's garbage collector would come at the wrong moment."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_collection() -> Iterator[None]:
    """Have no garbage collection while a jump makes its many long lists, nor on their account as soon as it is over."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # the two together count everything as old, without looking at it
        gc.unfreeze()
        if was_on:
            gc.enable()
