"""Clock of a replay: recorded seconds as a function of a monotonic clock, the playback speed and pauses."""

from __future__ import annotations

from collections.abc import Callable

SLOWEST, FASTEST = 0.25, 16.0


class Playhead:
    """Position in recorded time: held, or moving at the playback speed.

    Args:
        clock: monotonic seconds.
        speed: recorded seconds per second; 0 is unlimited. Other values are clamped to 0.25 to 16.
    """

    def __init__(self, clock: Callable[[], float], speed: float) -> None:
        self._clock = clock
        self.speed = _bounded(speed)
        self.paused = False
        self._anchor: tuple[float, float] | None = None
        """Recorded seconds, and the clock at that moment; None until the first event sets it."""

    @property
    def seconds(self) -> float | None:
        """Recorded seconds now; None before the first event."""
        if self._anchor is None:
            return None
        recorded, since = self._anchor
        return recorded if self.paused else recorded + (self._clock() - since) * self.speed

    def reaches(self, due: float, earliest: float) -> bool:
        """Move to `due` and return True if an event is to be shown now.

        The first event is always due: what came before it was not recorded.

        Args:
            due: recorded time of the event.
            earliest: recorded time from which the event is shown, at most `due`; the wait between them is skipped.
        """
        if self.paused:
            return False
        now = None if self.speed == 0 else self.seconds
        if now is not None and now < earliest:
            return False
        if now is None or now < due:
            self.move_to(due)
        return True

    def move_to(self, recorded: float) -> None:
        """Set the position to this recorded time."""
        self._anchor = recorded, self._clock()

    def reset(self) -> None:
        """Forget the position: the next event is due at any time."""
        self._anchor = None

    def hold(self) -> None:
        """Pause at the present position."""
        self._anchor_here()
        self.paused = True

    def release(self) -> None:
        """Continue from the present position."""
        self._anchor_here()
        self.paused = False

    def set_speed(self, speed: float) -> None:
        """Continue from the present position at another speed."""
        self._anchor_here()
        self.speed = _bounded(speed)

    def _anchor_here(self) -> None:
        if (now := self.seconds) is not None:
            self.move_to(now)


def _bounded(speed: float) -> float:
    return 0.0 if speed <= 0 else min(max(speed, SLOWEST), FASTEST)
