"""Intake of a source's events: a backlog, folded into the view for a share of each frame's time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from moe_watch.routing.events import Marker, StreamItem, Vitals
from moe_watch.sessions.source import Source
from moe_watch.tui.state.run import RunView, stage_of


class Intake:
    """Drains a source, feeds a view, and measures the time since the last event.

    Args:
        view: state of the run.
        clock: seconds, monotonic.
    """

    def __init__(self, view: RunView, clock: Callable[[], float]) -> None:
        self._view = view
        self._clock = clock
        self._backlog: deque[StreamItem] = deque()
        self._stage = stage_of(view)
        self._stage_began = clock()
        self._heard = clock()

    @property
    def caught_up(self) -> bool:
        """Every event that was drained is in the view."""
        return not self._backlog

    @property
    def silent(self) -> float:
        """Seconds since the last event of the run itself."""
        return self._clock() - self._heard

    @property
    def waited(self) -> float:
        """Seconds since the present stage of loading or prefill began."""
        return self._clock() - self._stage_began

    def drain(self, source: Source, now: float) -> None:
        """Fetch new events. Vitals and markers are made in this process and are no sign of life of the worker."""
        arrived = source.drain()
        self._backlog.extend(arrived)
        if any(not isinstance(item, Vitals | Marker) for item in arrived):
            self._heard = now

    def feed(self, deadline: float) -> Iterator[StreamItem]:
        """Feed events to the view until the deadline, at least one; yield each afterwards."""
        while self._backlog and self._clock() <= deadline:
            item = self._backlog.popleft()
            self._view.feed(item)
            stage = stage_of(self._view)
            if stage != self._stage:
                self._stage, self._stage_began = stage, self._clock()
            yield item

    def begin_source(self) -> None:
        """Discard the events of the source before."""
        self._backlog.clear()

    def wake(self) -> None:
        """Measure silence from now on: the program was stopped."""
        self._heard = self._clock()
