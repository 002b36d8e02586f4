"""Limit of the generation rate."""

from __future__ import annotations

from collections.abc import Callable


class RateLimit:
    """Limit in tokens per second. A token that comes late does not delay the next one.

    Args:
        rate: tokens per second; 0 is no limit.
        clock: seconds, monotonic.
    """

    def __init__(self, rate: float, clock: Callable[[], float]) -> None:
        self.rate = rate
        self._clock = clock
        self._next = clock()

    def wait(self) -> float:
        """Return the seconds until the next token may be sampled."""
        return max(0.0, self._next - self._clock()) if self.rate > 0 else 0.0

    def count(self) -> None:
        """Count a sampled token."""
        if self.rate > 0:
            self._next = max(self._next + 1 / self.rate, self._clock())
