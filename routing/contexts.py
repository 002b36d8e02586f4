"""Numbers of a run's contexts, from 0: a new context begins with every `fresh_context`."""

from __future__ import annotations

import msgspec

from moe_watch.routing.events import Chunk, Keyframe, State, StreamItem


class ContextNumbers:
    """Counter of a run's contexts; it is fed the items of the run in order."""

    def __init__(self) -> None:
        self.current = 0
        """Number of the present context."""
        self._start = 0
        """Index of its first token."""

    def feed(self, item: StreamItem) -> bool:
        """Take in one item; return True if a context began with it or before it."""
        known = self.current
        if isinstance(item, State) and item.state == "fresh_context":
            self.current, self._start = known + 1, item.i
        elif isinstance(item, Keyframe | Chunk) and item.context is not None:
            self.current = max(known, item.context)  # larger only if a `fresh_context` is in no file
        return self.current != known

    def of(self, chunk: Chunk) -> int:
        """Return the context number of the chunk that was fed last."""
        if chunk.context is not None:
            return chunk.context
        return self.current - (chunk.first < self._start)  # a `fresh_context` comes before the chunk that it cuts

    def named(self, chunk: Chunk) -> Chunk:
        """Return the chunk that was fed last with its context number, which some modes do not record."""
        return msgspec.structs.replace(chunk, context=self.of(chunk))
