"""Following a run to its end without a screen."""

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
"""Seconds between two looks at a source that had nothing."""
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_headless(
    source: Source,
    on_item: Callable[[StreamItem], None],
    closing: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> RunSummary | None:
    """Start a source, follow it to its end, close it, and sum it up.

    Ctrl-C, SIGTERM or a closed terminal ends the run as a person's wish: it is finished and recorded as such, and
    summed up as well. A second Ctrl-C or SIGTERM interrupts at once.

    Args:
        source: a source that was not started yet.
        on_item: called with every item, in order.
        closing: entered while the source is closed.

    Returns:
        The run's summary; None if no run began.

    Raises:
        UserError: the source cannot be started.
        KeyboardInterrupt: it was ended before there was a run, or a second time; the source is closed.
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
    """An event that the first of `STOP_SIGNALS` sets; the second one is a `KeyboardInterrupt`."""
    stopped = threading.Event()

    def handle(number: int, _frame: FrameType | None) -> None:
        if stopped.is_set() and number != signal.SIGHUP:  # the shell and the system may both tell of a closed terminal
            raise KeyboardInterrupt
        stopped.set()

    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield stopped
        return
    before = {number: signal.signal(number, handle) for number in STOP_SIGNALS}
    if before[signal.SIGHUP] == signal.SIG_IGN:  # as `nohup` wants it
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
