"""Background thread for one item of work at a time, with a cheap handover."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar

Item = TypeVar("Item")


class BackgroundThread(Generic[Item]):
    """Thread that processes items while its owner continues.

    An executor does this, too, but next to a model, which evicts everything else from the CPU caches, its handover
    takes three times as long. The thread ends with this object.

    Args:
        work: processes an item; must not keep a reference to the owner of this object.
        name: of the thread.
    """

    def __init__(self, work: Callable[[Item], None], name: str) -> None:
        self._items: SimpleQueue[tuple[Item] | None] = SimpleQueue()
        self._results: SimpleQueue[BaseException | None] = SimpleQueue()
        self._is_busy = False
        threading.Thread(target=_serve, args=(work, self._items, self._results), name=name, daemon=True).start()
        weakref.finalize(self, self._items.put, None)

    def begin(self, item: Item) -> None:
        """Start processing an item once the previous one is done; raises the exception of the previous one."""
        self.settle()
        self._is_busy = True
        self._items.put((item,))

    def settle(self) -> None:
        """Wait until the thread is idle; raises the exception of the last item."""
        if self._is_busy:
            self._is_busy = False
            if (error := self._results.get()) is not None:
                raise error


def _serve(
    work: Callable[[Item], None],
    items: SimpleQueue[tuple[Item] | None],
    results: SimpleQueue[BaseException | None],
) -> None:
    """Process items until None arrives."""
    while (received := items.get()) is not None:
        try:
            work(received[0])
        except BaseException as error:  # any exception must reach the waiting thread
            results.put(error)
        else:
            results.put(None)
        del received  # it may hold megabytes until the next one arrives
