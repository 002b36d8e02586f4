"""Saying what is waited for while a run ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from moe_watch.commands.output import complain

UNTOLD_SECONDS = 0.7
"""A run that takes longer than this to end is said to be waited for."""
WAITED_FOR = "ending the run: waiting for the model's process, which is killed if it does not answer"


@contextmanager
def wait_told() -> Iterator[None]:
    """Say what is waited for if the block takes longer than a moment. The terminal may be gone by then."""

    def tell() -> None:
        with suppress(OSError):
            complain(WAITED_FOR)

    timer = threading.Timer(UNTOLD_SECONDS, tell)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
