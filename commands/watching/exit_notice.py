"""Notice while a run takes long to end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from moe_watch.commands.output import complain

NOTICE_SECONDS = 0.7
"""Delay of the notice."""
NOTICE = "ending the run: waiting for the model's process, which is killed if it does not answer"


@contextmanager
def exit_notice() -> Iterator[None]:
    """Print a notice if the block takes longer than `NOTICE_SECONDS`. The terminal may be closed by then."""

    def tell() -> None:
        with suppress(OSError):
            complain(NOTICE)

    timer = threading.Timer(NOTICE_SECONDS, tell)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
