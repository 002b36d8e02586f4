"""Stream items on their way to the parent, gathered into batches."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby

from backends.observation import Evaluated, Observer
from backends.protocol import Batch, BatchItem

LONGEST_WAIT = 0.020
"""Seconds that a token may wait for others to share its batch."""
LARGEST_BATCH = 64


class Outbox:
    """Keeps the order of everything put into it.

    Args:
        send: writes one message; may block.
        observer: makes token events.
        clock: seconds, monotonic.
    """

    def __init__(self, send: Callable[[Batch], None], observer: Observer, clock: Callable[[], float]) -> None:
        self._send = send
        self._observer = observer
        self._clock = clock
        self._waiting: list[Evaluated | BatchItem] = []
        self._tokens = 0
        self._since = 0.0
        self._last = clock()

    def put(self, item: BatchItem) -> None:
        """Add an event."""
        self._waiting.append(item)

    def put_tokens(self, tokens: Evaluated) -> None:
        """Add tokens; sends what is there when it is enough, or when the next token may come too late for it."""
        now = self._clock()
        if not self._tokens:
            self._since = now
        interval, self._last = now - self._last, now
        self._waiting.append(tokens)
        self._tokens += len(tokens.tokens)
        if self._tokens >= LARGEST_BATCH or now - self._since + interval >= LONGEST_WAIT:
            self.flush()

    def flush(self) -> None:
        """Send everything now."""
        items = self._items()
        self._waiting.clear()
        self._tokens = 0
        for start in range(0, len(items), LARGEST_BATCH):
            self._send(Batch(items[start : start + LARGEST_BATCH]))

    def _items(self) -> list[BatchItem]:
        """What waits, as events; tokens that follow one another are observed together."""
        items: list[BatchItem] = []
        for are_tokens, group in groupby(self._waiting, lambda entry: isinstance(entry, Evaluated)):
            if are_tokens:
                items += self._observer.tokens([entry for entry in group if isinstance(entry, Evaluated)])
            else:
                items += [entry for entry in group if not isinstance(entry, Evaluated)]
        return items
