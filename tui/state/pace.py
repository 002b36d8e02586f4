"""Generation rates and playback speeds: their words, and the values that `+` and `−` select."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from moe_watch.sessions.source import PaceStatus
from moe_watch.tui.text.format import factor

UNLIMITED = "unlimited"


@dataclass(frozen=True, slots=True)
class PaceScale:
    """Values of one kind of pace, ascending; 0 is unlimited and the last."""

    values: tuple[float, ...]
    pauses_run: bool
    """`resume` continues a run that reports a pause. In a replay that pause is recorded, and playback continues."""

    def next(self, value: float, steps: int) -> float:
        """Return the value above `value`, or below it for negative `steps`; the ends are returned again."""
        if steps > 0:
            return next((each for each in self.values if _order(each) > _order(value)), self.values[-1])
        return next((each for each in reversed(self.values) if _order(each) < _order(value)), self.values[0])


_SCALES: dict[Literal["rate", "speed"], PaceScale] = {
    "rate": PaceScale((1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 0.0), pauses_run=True),
    "speed": PaceScale((0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 0.0), pauses_run=False),
}


def scale_of(pace: PaceStatus) -> PaceScale:
    """Return the values that a pace can take."""
    return _SCALES[pace.kind]


def pace_in_words(pace: PaceStatus) -> str:
    """Return a pace as text: `30 tok/s`, `2×`, `unlimited`."""
    if pace.value == 0:
        return UNLIMITED
    return factor(pace.value) if pace.kind == "speed" else f"{pace.value:g} tok/s"


def _order(value: float) -> float:
    return value if value > 0 else float("inf")
