"""Where in recorded time a replay is."""

from __future__ import annotations

from collections.abc import Callable

SLOWEST, FASTEST = 0.25, 16.0
LONGEST_WAIT = 2.0
"""Recorded seconds in which nothing happens that are waited for; the rest of a longer pause is skipped."""


class Playhead:
    """Recorded seconds as a function of an injected clock: held, or moving at a speed.

    Args:
        clock: monotonic seconds.
        speed: factor on recorded time; 0 is as fast as one asks. Others are kept within 0.25 to 16.
    """

    def __init__(self, clock: Callable[[], float], speed: float) -> None:
        self._clock = clock
        self.speed = _bounded(speed)
        self.paused = False
        self._recorded: float | None = None
        """Recorded seconds at the time `_since`; None until the first event has set it."""
        self._since = 0.0

    def reaches(self, recorded: float, quiet_since: float | None = None) -> bool:
        """Whether an event of this time is due. The first one always is: what came before it was not recorded.

        Args:
            recorded: the event's time.
            quiet_since: when something happened last, if one need not wait longer than `LONGEST_WAIT` after it.
        """
        if self.paused:
            return False
        if self._recorded is None or self.speed == 0:
            self.move_to(recorded)
        until = recorded if quiet_since is None else min(recorded, quiet_since + LONGEST_WAIT)
        if self._position() < until:
            return False
        if self._position() < recorded:
            self.move_to(recorded)
        return True

    def move_to(self, recorded: float) -> None:
        """Be at this time now."""
        self._recorded, self._since = recorded, self._clock()

    def reset(self) -> None:
        """Be nowhere: the next event is due whatever its time."""
        self._recorded = None

    def hold(self) -> None:
        """Stand still."""
        self._anchor()
        self.paused = True

    def release(self) -> None:
        """Go on from where it stands."""
        self._anchor()
        self.paused = False

    def set_speed(self, speed: float) -> None:
        """Go on from here at another speed."""
        self._anchor()
        self.speed = _bounded(speed)

    def _anchor(self) -> None:
        if self._recorded is not None:
            self.move_to(self._position())

    def _position(self) -> float:
        assert self._recorded is not None
        moved = 0.0 if self.paused else (self._clock() - self._since) * self.speed
        return self._recorded + moved


def _bounded(speed: float) -> float:
    return 0.0 if speed <= 0 else min(max(speed, SLOWEST), FASTEST)
