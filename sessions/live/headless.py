"""Playing a source to its end without a screen."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import FrameType

from moe_watch.routing.events import StreamItem
from moe_watch.routing.results import RunSummary
from moe_watch.routing.summary import Summary
from moe_watch.sessions.source import Source

LONGEST_WAIT = 0.02
"""Seconds between two polls of an empty source."""
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_headless(
    source: Source,
    on_item: Callable[[StreamItem], None],
    closing: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> RunSummary | None:
    """Start a source, follow it to its end, close it, and sum it up.

    Ctrl-C, SIGTERM or a closed terminal ends the run with the finish reason `user`; it is recorded, and the summary is
    returned. A second Ctrl-C or SIGTERM interrupts at once.

    Args:
        source: not yet started.
        on_item: called with every item, in order.
        closing: context manager around the close of the source.

    Returns:
        The run's summary; None if no run began.

    Raises:
        UserError: the source cannot be started.
        KeyboardInterrupt: interrupted before a run began, or twice; the source is closed.
    """
    summary = Summary()

    def drain() -> bool:
        items = source.drain()
        for item in items:
            summary.feed(item)
            on_item(item)
        return bool(items)

    with _stop_signals() as stopped:
        try:
            source.start()
            while not (stopped.is_set() or source.ended):
                if not drain():
                    stopped.wait(LONGEST_WAIT)
        finally:
            with closing():
                source.close()
        drain()
    result = summary.result()
    if stopped.is_set() and result is None:
        raise KeyboardInterrupt
    return result


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Yield an event that the first of `STOP_SIGNALS` sets; the second one raises `KeyboardInterrupt`."""
    stopped = threading.Event()

    def handle(number: int, _frame: FrameType | None) -> None:
        if stopped.is_set() and number != signal.SIGHUP:  # both shell and kernel may signal a closed terminal
            raise KeyboardInterrupt
        stopped.set()

    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield stopped
        return
    before = {number: signal.signal(number, handle) for number in STOP_SIGNALS}
    if before[signal.SIGHUP] == signal.SIG_IGN:  # set by `nohup`
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
