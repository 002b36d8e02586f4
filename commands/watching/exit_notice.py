"""Notice while a run takes long to end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from moe_watch.commands.output import complain

UNTOLD_SECONDS = 0.7
"""Delay of the notice."""
WAITED_FOR = "ending the run: waiting for the model's process, which is killed if it does not answer"


@contextmanager
def wait_told() -> Iterator[None]:
    """Print a notice if the block takes longer than `UNTOLD_SECONDS`. The terminal may be closed by then."""

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
