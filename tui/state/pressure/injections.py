"""Names of injections, and the chunks before and after them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

from moe_watch.routing.events import Chunk, Perturbation

GO_ON = " Please continue:"
"""Text that `g` injects."""
GO_ON_TEXTS = (GO_ON, " go on")
"""Injected texts that are labelled “go on”."""
INJECTIONS_KEPT = 400


def injection_label(perturbation: Perturbation) -> str:
    """Return the short name of an injection on the screen."""
    if perturbation.form == "turn":
        return "next turn"
    return "go on" if perturbation.text in GO_ON_TEXTS else "say"


def cut_in_words(perturbation: Perturbation) -> str:
    """Return the tokens that a turn removed from the context and evaluated again; empty if it removed none."""
    if not perturbation.cut:
        return ""
    again = f", {perturbation.again:,} evaluated again" if perturbation.again else ""
    return f"{perturbation.cut:,} tokens cut{again}"


@dataclass(frozen=True, slots=True)
class InjectionPoint:
    """An injection before chunk `chunk`."""

    chunk: int
    i: int
    label: str
    before: Chunk | None
    """The last complete chunk before it."""


class InjectionHistory:
    """The newest injections of a run, and the chunks around the last one.

    `points` is a bounded deque of immutable items, of which the last may be replaced: `tuple(points)` is a snapshot.
    """

    def __init__(self) -> None:
        self.points: deque[InjectionPoint] = deque(maxlen=INJECTIONS_KEPT)
        self.after: Chunk | None = None
        """The first complete chunk after the last injection."""
        self._last_complete: Chunk | None = None

    @property
    def last(self) -> InjectionPoint | None:
        """The last injection."""
        return self.points[-1] if self.points else None

    def add(self, perturbation: Perturbation, label: str, before_chunk: int) -> None:
        """Append an injection before the chunk with this index."""
        self.points.append(InjectionPoint(before_chunk, perturbation.i, label, self._last_complete))
        self.after = None

    def add_complete(self, chunk: Chunk) -> None:
        """Process the next complete chunk."""
        self._last_complete = chunk
        if self.points and self.after is None and chunk.first >= self.points[-1].i:
            self.after = chunk

    def begin_context(self) -> None:
        """Forget the last complete chunk: it belongs to the context before."""
        self._last_complete = None

    def move_behind(self, cut: Chunk) -> None:
        """Move the last injection behind the chunk that it cut short; the event of that chunk follows the injection."""
        last = self.last
        if last is not None and last.chunk <= cut.index and cut.last < last.i:
            self.points[-1] = replace(last, chunk=cut.index + 1)

    @property
    def delta(self) -> float | None:
        """P_mid of the complete chunk after the last injection, minus P_mid of the one before it."""
        before = None if self.last is None else self.last.before
        if before is None or self.after is None or before.pressures is None or self.after.pressures is None:
            return None
        return self.after.pressures.mid - before.pressures.mid
