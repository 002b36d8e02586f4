"""The mid-pressure series of a run, out of its events: what a half-life is fitted to."""

from __future__ import annotations

from routing.events import Chunk, Keyframe, StreamItem, Token
from routing.half_life import Fit, fit_half_life, too_long, too_short
from routing.instruments import start_is_before
from routing.reference_numbers import EntropyCollapse, entropy_collapse


class MidSeries:
    """P_mid of a run's complete chunks after the warm-up. Fed the items of the run in order.

    Args:
        mode: the pressure mode that the chunks are in.
    """

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.positions: list[int] = []
        """Index of each chunk in the run."""
        self.mid: list[float] = []
        self.begins_at: Keyframe | None = None
        """The state before the first token, if that is not the run's first one."""
        self._entropies: list[float] = []
        self._unmeasured = 0
        self._begun = False

    def feed(self, item: StreamItem) -> bool:
        """Take in one item; returns whether it made the series longer."""
        if isinstance(item, Chunk):
            return not (item.partial or item.warm_up) and self._add(item)
        if isinstance(item, Keyframe) and item.i and not self._begun:
            self.begins_at = item
        self._begun |= isinstance(item, Token)
        return False

    @property
    def knows_its_start(self) -> bool:
        """The first measured chunk of the run is, or will be, in the series."""
        return self.begins_at is None or not start_is_before(self.begins_at)

    @property
    def unavailable(self) -> str:
        """Why nothing can be fitted yet; empty if it can."""
        if self.begins_at is not None and not self.knows_its_start:
            return f"the recording begins at chunk {self.begins_at.chunks}, after the first measured one"
        if self._unmeasured and not self.mid:
            return f"{self._unmeasured} chunks have no pressure: a signal it needs was not recorded"
        return too_short(len(self.mid)) or too_long(len(self.mid))

    def fit(self) -> Fit | None:
        """The half-life of the series as it is now; None where it is `unavailable`."""
        return None if self.unavailable else fit_half_life(self.mid, mode=self.mode, positions=self.positions)

    def entropy_collapse(self) -> EntropyCollapse | None:
        """How far router entropy fell over the same chunks, in the mode's unit; None where it is not known of all."""
        return entropy_collapse(self._entropies) if len(self._entropies) == len(self.mid) else None

    def _add(self, chunk: Chunk) -> bool:
        if chunk.pressures is None:
            self._unmeasured += 1
            return False
        self.positions.append(chunk.index)
        self.mid.append(chunk.pressures.mid)
        if chunk.signals is not None:
            self._entropies.append(chunk.signals.router_entropy)
        return True
