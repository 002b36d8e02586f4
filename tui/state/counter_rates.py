"""Rates of the cumulative counters of vitals, and their growth per decode token. A function of the events alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from moe_watch.routing.events import Vitals

COUNTERS = ("swapped_in", "swapped_out", "worker_read", "worker_faults")

RATE_SECONDS = 5.0
"""Time over which a rate is the mean."""
LEAST_SECONDS, LEAST_TOKENS = 10.0, 8
"""Growth per token is the mean over at least this time and this number of tokens, so that it also holds for a run that
takes seconds per token."""
MOST_INTERVALS = 240


@dataclass(frozen=True, slots=True)
class Interval:
    """Time between two successive readings."""

    seconds: float
    grown: Mapping[str, int]
    """Growth by counter; a counter that one of the readings lacks, or that decreased (another worker), is left out."""
    tokens: int
    """Decode tokens between the readings."""
    only_decode: bool
    """No prompt token was evaluated, and no fork: what was read was read for `tokens`."""

    @property
    def is_idle(self) -> bool:
        """Nothing was finished in this time: it is part of the work that is finished next."""
        return self.only_decode and not self.tokens


class CounterRates:
    """Readings of the last intervals."""

    def __init__(self) -> None:
        self._intervals: deque[Interval] = deque(maxlen=MOST_INTERVALS)
        self._before: Vitals | None = None
        self._tokens = 0
        self._only_decode = True

    def count(self, *, decode: bool) -> None:
        """Count a token, or with `decode=False` other work of the model, since the last reading."""
        self._tokens += decode
        self._only_decode &= decode

    def add(self, vitals: Vitals) -> None:
        """Add a reading."""
        before, self._before = self._before, vitals
        tokens, only_decode = self._tokens, self._only_decode
        self._tokens, self._only_decode = 0, True
        if before is not None and vitals.t > before.t:
            self._intervals.append(Interval(vitals.t - before.t, _growth(before, vitals), tokens, only_decode))

    def newest(self, name: str) -> float | None:
        """Return the rate per second between the last two readings."""
        last = self._intervals[-1] if self._intervals else None
        return None if last is None or name not in last.grown else last.grown[name] / last.seconds

    def rate(self, name: str) -> float | None:
        """Return the rate per second over the last `RATE_SECONDS`; None if the newest reading has none."""
        if self.newest(name) is None:
            return None
        seconds, grown = 0.0, 0
        for interval in reversed(self._intervals):
            if name not in interval.grown or seconds >= RATE_SECONDS:
                break
            seconds, grown = seconds + interval.seconds, grown + interval.grown[name]
        return grown / seconds

    def per_token(self, name: str) -> float | None:
        """Return the growth per decode token; None if no interval of decoding alone has a token.

        Time before a prompt's tokens counts for the prompt, also if its evaluation takes many intervals.
        """
        if self.newest(name) is None:
            return None
        seconds, grown, tokens = 0.0, 0, 0
        for_decode = False  # after the newest token: whether for a token or a prompt is not known yet
        for interval in reversed(self._intervals):
            if name not in interval.grown:
                break
            if not interval.is_idle:
                if seconds >= LEAST_SECONDS and tokens >= LEAST_TOKENS:
                    break
                for_decode = interval.only_decode
            if for_decode:
                seconds += interval.seconds
                grown, tokens = grown + interval.grown[name], tokens + interval.tokens
        return grown / tokens if tokens else None


def _growth(before: Vitals, after: Vitals) -> dict[str, int]:
    found = {}
    for name in COUNTERS:
        first, last = getattr(before, name), getattr(after, name)
        if first is not None and last is not None and last >= first:
            found[name] = last - first
    return found
