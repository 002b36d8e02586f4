"""Holding a run to so many tokens per second."""

from __future__ import annotations

from collections.abc import Callable


class Pace:
    """Says how long to wait for the next token. A token that comes late does not delay the one after it.

    Args:
        rate: tokens per second at most; 0 is as fast as it goes.
        clock: seconds, monotonic.
    """

    def __init__(self, rate: float, clock: Callable[[], float]) -> None:
        self.rate = rate
        self._clock = clock
        self._next = clock()

    def wait(self) -> float:
        """Seconds until the next token may be drawn."""
        return max(0.0, self._next - self._clock()) if self.rate > 0 else 0.0

    def count(self) -> None:
        """A token was drawn."""
        if self.rate > 0:
            self._next = max(self._next + 1 / self.rate, self._clock())
