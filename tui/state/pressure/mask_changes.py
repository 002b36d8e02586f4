"""Changes of the mask in a pressure trajectory."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

from moe_watch.routing.events import Chunk

MASK_CHANGES_KEPT = 400


@dataclass(frozen=True, slots=True)
class MaskPoint:
    """A change of the mask before chunk `chunk`."""

    chunk: int
    i: int


class MaskChanges:
    """The newest changes of the mask.

    `points` is a bounded deque of immutable items, of which the last may be replaced: `tuple(points)` is a snapshot.
    """

    def __init__(self) -> None:
        self.points: deque[MaskPoint] = deque(maxlen=MASK_CHANGES_KEPT)

    def add(self, i: int, before_chunk: int) -> None:
        """Append a change at token `i`, before the chunk with this index."""
        self.points.append(MaskPoint(before_chunk, i))

    def move_behind(self, cut: Chunk) -> None:
        """Move the last change behind the chunk that it cut short; the event of that chunk follows the change."""
        last = self.points[-1] if self.points else None
        if last is not None and last.chunk <= cut.index and cut.last < last.i:
            self.points[-1] = replace(last, chunk=cut.index + 1)
