"""Stream items on their way to the parent, gathered into batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

from moe_watch.backends.generation.background import Beside
from moe_watch.backends.generation.observation import Evaluated, Observer
from moe_watch.backends.protocol import Batch, BatchItem
from moe_watch.routing.events import Token

LONGEST_WAIT = 0.020
"""Seconds that a token may wait for others to share its batch."""
LARGEST_BATCH = 64


class Outbox:
    """Keeps the order of everything put into it.

    Tokens become events on a thread of its own, while the model computes the next ones: engines let Python go on
    meanwhile. Whatever goes wrong there comes out of the next call.

    Args:
        send: writes one message; may block.
        observer: makes token events.
        clock: seconds, monotonic.
    """

    def __init__(self, send: Callable[[Batch], None], observer: Observer, clock: Callable[[], float]) -> None:
        self._observer = observer
        self._clock = clock
        self._beside = Beside(_Sender(send, observer).send_all, "outbox")
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
            self.send()

    def observed(self, steps: Sequence[Evaluated]) -> list[Token]:
        """These tokens as events, for an item that carries its own."""
        return self._observer.tokens(steps)

    def flush(self) -> None:
        """Send everything now; returns when that is done."""
        self.send()
        self._beside.settle()

    def send(self) -> None:
        """Begin to send everything, once what was begun before is sent."""
        self._beside.settle()
        waiting, self._waiting, self._tokens = self._waiting, [], 0
        if waiting:
            self._beside.begin(waiting)


class _Sender:
    """What is done on the other thread."""

    def __init__(self, send: Callable[[Batch], None], observer: Observer) -> None:
        self._send = send
        self._observer = observer

    def send_all(self, waiting: Sequence[Evaluated | BatchItem]) -> None:
        """Send this, in batches."""
        items = self._items(waiting)
        for start in range(0, len(items), LARGEST_BATCH):
            self._send(Batch(items[start : start + LARGEST_BATCH]))

    def _items(self, waiting: Sequence[Evaluated | BatchItem]) -> list[BatchItem]:
        """What waits, as events; tokens that follow one another are observed together."""
        items: list[BatchItem] = []
        for are_tokens, group in groupby(waiting, lambda entry: isinstance(entry, Evaluated)):
            if are_tokens:
                items += self._observer.tokens([entry for entry in group if isinstance(entry, Evaluated)])
            else:
                items += [entry for entry in group if not isinstance(entry, Evaluated)]
        return items
