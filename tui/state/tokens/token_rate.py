"""Generation rate of a run."""

from __future__ import annotations

from collections import deque

RATE_SECONDS = 2.0
RATE_EVENTS = 4096
"""Bound of the number of tokens kept; the rate of a faster run is measured over less than `RATE_SECONDS`."""


class TokenRate:
    """Tokens per second over the last `RATE_SECONDS` of event time, so that a replay shows the rate of the live run."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=RATE_EVENTS)

    def add(self, t: float) -> None:
        """Add a token at `t` seconds."""
        self._times.append(t)
        while len(self._times) > 2 and self._times[0] < t - RATE_SECONDS:
            self._times.popleft()

    def value(self) -> float | None:
        """Return tokens per second, or None before two tokens at different times."""
        if len(self._times) < 2:
            return None
        span = self._times[-1] - self._times[0]
        return (len(self._times) - 1) / span if span > 0 else None
