"""Queue of stream items for the parent, sent in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

from moe_watch.backends.generation.background import BackgroundThread
from moe_watch.backends.generation.observation import Evaluated, Observer
from moe_watch.backends.protocol import Batch, BatchItem
from moe_watch.routing.events import Token

LONGEST_WAIT = 0.020
"""Maximum seconds that a token waits for others to share its batch."""
LARGEST_BATCH = 64


class Outbox:
    """Queue that keeps the order of its items.

    A background thread turns tokens into events while the model computes the next ones: engines release the GIL
    meanwhile. The next call raises an exception of that thread.

    Args:
        send: writes one message; may block.
        observer: makes token events.
        clock: seconds, monotonic.
    """

    def __init__(self, send: Callable[[Batch], None], observer: Observer, clock: Callable[[], float]) -> None:
        self._observer = observer
        self._clock = clock
        self._background = BackgroundThread(_Sender(send, observer).send_all, "outbox")
        self._waiting: list[Evaluated | BatchItem] = []
        self._tokens = 0
        self._since = 0.0
        self._last = clock()

    def put(self, item: BatchItem) -> None:
        """Add an event."""
        self._waiting.append(item)

    def put_tokens(self, tokens: Evaluated) -> None:
        """Add tokens; sends the batch if it is full, or if waiting for another token may exceed `LONGEST_WAIT`."""
        now = self._clock()
        if not self._tokens:
            self._since = now
        interval, self._last = now - self._last, now
        self._waiting.append(tokens)
        self._tokens += len(tokens.tokens)
        if self._tokens >= LARGEST_BATCH or now - self._since + interval >= LONGEST_WAIT:
            self.send()

    def observed(self, steps: Sequence[Evaluated]) -> list[Token]:
        """Return these tokens as events, for an item that contains tokens."""
        return self._observer.tokens(steps)

    def flush(self) -> None:
        """Send everything, and wait until it is sent."""
        self.send()
        self._background.settle()

    def send(self) -> None:
        """Start sending everything, after the batches in progress."""
        self._background.settle()
        waiting, self._waiting, self._tokens = self._waiting, [], 0
        if waiting:
            self._background.begin(waiting)


class _Sender:
    """Work of the background thread."""

    def __init__(self, send: Callable[[Batch], None], observer: Observer) -> None:
        self._send = send
        self._observer = observer

    def send_all(self, waiting: Sequence[Evaluated | BatchItem]) -> None:
        """Send these items in batches."""
        items = self._items(waiting)
        for start in range(0, len(items), LARGEST_BATCH):
            self._send(Batch(items[start : start + LARGEST_BATCH]))

    def _items(self, waiting: Sequence[Evaluated | BatchItem]) -> list[BatchItem]:
        """Return the items as events; successive tokens are observed together."""
        items: list[BatchItem] = []
        for are_tokens, group in groupby(waiting, lambda entry: isinstance(entry, Evaluated)):
            if are_tokens:
                items += self._observer.tokens([entry for entry in group if isinstance(entry, Evaluated)])
            else:
                items += [entry for entry in group if not isinstance(entry, Evaluated)]
        return items
