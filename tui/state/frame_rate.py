"""Frame rate of the dashboard: the requested one, or less if drawing takes too long."""

from __future__ import annotations

SLOWEST = 2.0
"""Lowest frame rate, in frames per second."""
BUSY_SHARE = 0.5
"""A frame that takes more than this share of its time halves the rate."""
IDLE_SHARE = 0.1
CALM_FRAMES = 24
"""Number of consecutive frames below `IDLE_SHARE` of their time after which the rate doubles again."""


class FrameRate:
    """Frame rate that adapts to the time that drawing takes."""

    def __init__(self, wanted: float) -> None:
        self.wanted = wanted
        self.fps = wanted
        self._calm = 0

    @property
    def interval(self) -> float:
        """Seconds between two frames."""
        return 1 / self.fps

    def took(self, seconds: float) -> bool:
        """Process the duration of a frame; return True if the rate has changed."""
        share = seconds * self.fps
        self._calm = self._calm + 1 if share < IDLE_SHARE else 0
        before = self.fps
        if share > BUSY_SHARE:
            self.fps = max(min(SLOWEST, self.wanted), self.fps / 2)
        elif self._calm >= CALM_FRAMES:
            self.fps, self._calm = min(self.wanted, 2 * self.fps), 0
        return self.fps != before
