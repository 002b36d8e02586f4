"""Timeline of a replay: its position, with the markers and injections of the recording."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from rich.cells import cell_len
from textual import events
from textual.geometry import Size
from textual.message import Message
from textual.strip import Strip

from moe_watch.routing.events import Change, Marker, Perturbation
from moe_watch.sessions.source import Timeline
from moe_watch.tui.drawing.line import CellLine
from moe_watch.tui.state.frame import Frame
from moe_watch.tui.state.mask_words import OFF
from moe_watch.tui.text.format import clock_time, count
from moe_watch.tui.widgets.frame_widget import FrameWidget

HEAD, MARK, INJECTION = "●", "◆", "▴"
"""Signs of the position, of markers and of injections; a change of the mask has `OFF`."""
LEAST_BAR = 12
"""Least width of a bar, in cells."""


class TimelineBar(FrameWidget):
    """One row: time, bar, token. A click seeks; dragging follows the mouse."""

    class Sought(Message):
        """The user clicked or dragged to a token.

        Args:
            token: index of the token to seek.
        """

        def __init__(self, token: int) -> None:
            super().__init__()
            self.token = token

    def __init__(self, *, id: str) -> None:  # noqa: A002 - the name that Textual uses
        super().__init__(id=id)
        self._bar: tuple[int, int] = (0, 0)
        """First cell of the bar, and its width."""
        self._ticks: dict[int, str] = {}
        """Symbols of markers and injections, by cell of the bar."""
        self._ticked: Hashable = None
        """Extent and width that the ticks were placed for; a long recording has many ticks."""
        self._dragging = False
        self.note = ""
        """Progress of a search, shown in place of the position."""

    def show(self, frame: Frame) -> None:
        self.display = frame.timeline is not None
        super().show(frame)

    def state(self, frame: Frame) -> Hashable:
        timeline = frame.timeline
        return None if timeline is None else (_extent(timeline), timeline.position, _times(frame), self.note)

    def draw(self, frame: Frame, size: Size) -> list[Strip]:
        timeline = frame.timeline
        if timeline is None:
            return []
        ink, row = self.palette, self.row(size.width)
        left = f" {_times(frame)} "
        right = f" {self.note or f'token {count(timeline.position)} of {count(timeline.tokens)}'} "
        cells = size.width - cell_len(left) - cell_len(right)
        row.put(left, ink.text)
        self._bar = (cell_len(left), cells if cells >= LEAST_BAR else 0)
        if self._bar[1]:
            self._draw_bar(row, timeline, cells)
        return [row.to(size.width - cell_len(right)).put(right, ink.muted).strip()]

    def _draw_bar(self, row: CellLine, timeline: Timeline, cells: int) -> None:
        ink = self.palette
        head = self._column(timeline.position, timeline)
        self._place_ticks(timeline, cells)
        for column in range(cells):
            tick = self._ticks.get(column)
            if column == head:
                row.put(HEAD, ink.accent_bold)
            elif tick is not None:
                row.put(tick, ink.accent if tick == INJECTION else ink.status.warn)
            else:
                row.put("━" if column < head else "─", ink.chart.fill if column < head else ink.faint)

    def _place_ticks(self, timeline: Timeline, cells: int) -> None:
        """Assign signs to cells; a marker hides an injection in the same cell, and that a change of the mask."""
        key = (*_extent(timeline), cells)
        if key == self._ticked:
            return
        self._ticked = key
        found = ((timeline.masks, OFF), (timeline.perturbations, INJECTION), (timeline.marks, MARK))
        self._ticks = {column: sign for events, sign in found for column in self._columns(events, timeline)}

    def _columns(self, found: Iterable[Marker | Perturbation | Change], timeline: Timeline) -> list[int]:
        return [self._column(event.i, timeline) for event in found]

    def _column(self, token: int, timeline: Timeline) -> int:
        """Return the cell of the bar that a token is in."""
        share = (token - timeline.first) / max(1, timeline.tokens - timeline.first)
        return round(min(1.0, max(0.0, share)) * (self._bar[1] - 1))

    # The mouse

    def on_mouse_down(self, event: events.MouseDown) -> None:
        start, cells = self._bar
        if cells and start <= event.x < start + cells:
            self._dragging = True
            self.capture_mouse()
            self._point_at(event.x)

    def on_mouse_move(self, event: events.MouseMove) -> None:
        if self._dragging:
            self._point_at(event.x)

    def on_mouse_up(self) -> None:
        self._dragging = False
        self.release_mouse()

    def _point_at(self, x: int) -> None:
        """Ask to seek the token at a cell; cells beyond the bar count as its nearest end."""
        timeline = self.frame.timeline if self.frame else None
        start, cells = self._bar
        if timeline is not None and cells > 1:
            share = min(1.0, max(0.0, (x - start) / (cells - 1)))
            self.post_message(self.Sought(timeline.first + round(share * (timeline.tokens - timeline.first))))


def _times(frame: Frame) -> str:
    timeline = frame.timeline
    if frame.view.counts_only:
        return "no times"
    return "" if timeline is None else f"{clock_time(timeline.time)} / {clock_time(timeline.seconds)}"


def _extent(timeline: Timeline) -> tuple[int, ...]:
    """Return the range of tokens and the numbers of markers, injections and changes of the mask."""
    numbers = len(timeline.marks), len(timeline.perturbations), len(timeline.masks)
    return timeline.first, timeline.tokens, *numbers
