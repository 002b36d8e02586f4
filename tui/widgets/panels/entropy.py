"""Panel of router entropy: a bar per layer, the mean per token, effective experts, churn."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import zip_longest
from math import isnan

import numpy as np
from textual.geometry import Size
from textual.strip import Strip

from moe_watch.routing.arrays import Floats
from moe_watch.tui.drawing.chart import Chart, ChartAxis
from moe_watch.tui.drawing.line import Part
from moe_watch.tui.state.frame import Frame
from moe_watch.tui.state.imported_counts import CountedWindow
from moe_watch.tui.state.mask_words import OFF, masked_router_text
from moe_watch.tui.state.tokens.token_window import TokenWindow, mean_of_known
from moe_watch.tui.text.format import NOT_AVAILABLE, count, number
from moe_watch.tui.widgets.frame_widget import Panel

NO_ENTROPY = "no MoE layers, so no router entropy and no churn. The stream shows the surprisal of each token."
LEAST_SPAN = 0.1
CHART_WIDTH = 20
"""Least width of the curve, in cells."""
AXIS_WIDTH = 5
BAR_WIDTH = 14
"""Width of a bar beside the curve, in cells."""


class EntropyPanel(Panel):
    """Router entropy of the window by layer and by token."""

    NAME = "ENTROPY"

    def state(self, frame: Frame) -> Hashable:
        return frame.view.runs, frame.view.observed, frame.view.tap_off_at, str(frame.view.mask)

    def draw(self, frame: Frame, size: Size) -> list[Strip]:
        width, height = size
        view = frame.view
        window, header = view.window, view.header
        texts = view.tap_off_text, masked_router_text(view.settings.masked)
        note = tuple((f" {text} ", self.palette.status.warn) for text in texts if text)
        if view.is_dense:
            self.label("of the routers")
            return self.message(width, height, NO_ENTROPY)
        if window is None or header is None or not window.tokens:
            self.label("of the routers", *note)
            return self.message(width, height, view.no_token_text)
        if isinstance(window, CountedWindow):
            return self._of_usage(window, header.model.layers, size, whole=view.status == "finished")
        if "entropy" not in header.capture:
            self.label("of the routers")
            return self.message(width, height, "n/a: this run did not record router entropy")
        self.label(f"of the routers, {view.window_text}", *note)
        summary = self._summary(window, width, header.model.experts)
        rows = self._body(window, header.model.layers, width, _body_height(height, header.model.layers))
        return self._above(rows, height, summary)

    def _of_usage(self, window: CountedWindow, layers: Sequence[int], size: Size, *, whole: bool) -> list[Strip]:
        """Draw the usage entropy of each layer, for a recording of counts: router entropy needs tokens."""
        unordered = whole and window.steps == 1
        self.label(
            "of usage, no order in time" if unordered else "of usage so far",
            (" router entropy n/a: counts, no tokens ", self.palette.muted),
        )
        values, body = window.usage_entropy(), _body_height(size.height, layers)
        draw = self._bars if len(layers) <= body else self._layer_curve
        return self._above(draw(values, layers, size.width, body), size.height, self._usage_summary(window, size.width))

    def _usage_summary(self, window: CountedWindow, width: int) -> Strip:
        ink = self.palette
        mean = [("mean ", ink.muted), (number(window.mean_usage_entropy()), ink.strong)]
        effective = [(number(window.effective_by_usage(), 1), ink.strong), (f" of {window.experts}", ink.muted)]
        dead = [("  dead ", ink.muted), (count(window.dead()), ink.strong)]
        of_all = (f" of {count(window.usage.counts.size)}", ink.muted)
        return self._widest_summary(width, mean, effective, [*dead, of_all], dead)

    def _above(self, rows: list[Strip], height: int, summary: Strip) -> list[Strip]:
        """Return the rows, with the summary in the last row of the panel."""
        return [*rows, *[self.row(summary.cell_length).strip()] * (height - 1 - len(rows)), summary]

    def _summary(self, window: TokenWindow, width: int, experts: int) -> Strip:
        ink = self.palette
        mean = [("mean ", ink.muted), (number(window.mean_entropy()), ink.strong)]
        effective = [(number(window.effective(), 1), ink.strong), (f" of {experts}", ink.muted)]
        churn = window.churn()
        last = [("  churn ", ink.muted), (number(churn), ink.muted if isnan(churn) else ink.strong)]
        return self._widest_summary(width, mean, effective, last)

    def _widest_summary(
        self, width: int, mean: Sequence[Part], effective: Sequence[Part], *last: Sequence[Part]
    ) -> Strip:
        """Return the longest form of the summary that fits: a number that is cut off would be wrong.

        Args:
            width: in cells.
            mean: mean entropy with its name.
            effective: number of effective experts, without its name.
            last: forms of the last value, the longest first.
        """
        muted = self.palette.muted
        names = ("  effective experts ", "  effective ")
        forms = [[*mean, (name, muted), *effective, *each] for each in last for name in names]
        return self.row(width).first_that_fits(*forms, [*mean, (names[-1], muted), *effective], mean).strip()

    def _body(self, window: TokenWindow, layers: Sequence[int], width: int, height: int) -> list[Strip]:
        """Draw layers at the left, tokens at the right if there is room; bars for few layers, a curve for many."""
        values = window.layer_entropy()
        few = len(layers) <= height
        left = min(width, len(str(max(layers))) + 6 + BAR_WIDTH if few else width // 2)
        right = width - left - 3
        by_layer = self._bars(values, layers, left, height) if few else self._layer_curve(values, layers, left, height)
        if right < CHART_WIDTH:
            return self._bars(values, layers, width, height) if few else by_layer
        return self._side_by_side(by_layer, self._token_curve(window, right, height))

    def _side_by_side(self, left: list[Strip], right: list[Strip]) -> list[Strip]:
        """Join two columns; the shorter one is extended with blank rows."""
        gap, *blanks = (self.row(width).strip() for width in (3, left[0].cell_length, right[0].cell_length))
        pairs = zip_longest(left, right)
        return [Strip.join([a or blanks[0], gap, b or blanks[1]]) for a, b in pairs]

    def _bars(self, values: Floats, layers: Sequence[int], width: int, height: int) -> list[Strip]:
        """Draw one bar per layer with its index and value, spread over the height."""
        label_width, spread = len(str(max(layers))), min(3, height // len(layers))
        gap = [self.row(width).strip()] * (spread - 1)
        rows = []
        for layer, value in zip(layers, values.tolist(), strict=True):
            rows += [self._bar(layer, value, label_width, width), *gap]
        return rows

    def _bar(self, layer: int, value: float, label_width: int, width: int) -> Strip:
        ink = self.palette
        row = self.row(width).put(f"{layer:>{label_width}} ", ink.muted)
        room = width - label_width - 6
        filled = 0 if isnan(value) else round(value * room)
        row.put("━" * filled, ink.chart.fill).put("━" * (room - filled), ink.chart.track)
        return row.put(f" {number(value)}", ink.text).strip()

    def _layer_curve(self, values: Floats, layers: Sequence[int], width: int, height: int) -> list[Strip]:
        """Draw a curve over the layers, and name the lowest and the highest layer."""
        ink, row = self.palette, self.row(width)
        if np.isnan(values).all():
            return self.message(width, height, NOT_AVAILABLE)
        low, high = int(np.nanargmin(values)), int(np.nanargmax(values))
        lowest, highest = (f"layer {layers[at]} {number(float(values[at]))}" for at in (low, high))
        row.first_that_fits(
            [("lowest ", ink.muted), (lowest, ink.text), ("  highest ", ink.muted), (highest, ink.text)],
            [(lowest, ink.text), (" to ", ink.muted), (highest[6:], ink.text)],
        )
        return [*self._curve(values, width, height - 1, now=False), row.strip()]

    def _token_curve(self, window: TokenWindow, width: int, height: int) -> list[Strip]:
        """Draw a curve of the mean over layers, token by token."""
        values = window.token_entropy()
        if np.isnan(values).all():
            return self.message(width, height, NOT_AVAILABLE)
        return self._curve(values, width, height, now=True, changes=window.marks)

    def _curve(self, values: Floats, width: int, height: int, *, now: bool, changes: Sequence[int] = ()) -> list[Strip]:
        """Draw values from left to right, averaging neighbours if there are more than dots; `now` marks the last.

        `changes` are numbers of values before a change of the mask; it is a vertical line.
        """
        binned = _bin_by_mean(values, -(-len(values) // (2 * (width - AXIS_WIDTH))))
        known = binned[~np.isnan(binned)].tolist()
        axis = ChartAxis.around(known, least=LEAST_SPAN, most_steps=max(2, min(6, (height - 1) // 2)))
        chart = Chart(self.palette, width, height, (0, max(1, len(values) - 1)), axis)
        for before in changes:
            chart.vertical_line(before - 0.5, self.palette.status.warn)
            chart.symbol(chart.column(before - 0.5), 0, OFF, self.palette.status.warn)
        step = (len(values) - 1) / max(1, len(binned) - 1)
        points = [(at * step, value) for at, value in enumerate(binned.tolist())]
        chart.canvas.curve(points, self.palette.text if now else self.palette.chart.fill)
        if now and not isnan(points[-1][1]):
            chart.symbol(chart.column(points[-1][0]), chart.row_of(points[-1][1]), "●", self.palette.accent)
        return chart.rows()


def _body_height(height: int, layers: Sequence[int]) -> int:
    """Return the rows above the summary; one stays blank unless a layer needs it."""
    return height - 1 if height - 1 <= len(layers) else height - 2


def _bin_by_mean(values: Floats, size: int) -> Floats:
    """Return the means of bins of `size` neighbours; the last bin may be smaller."""
    if size <= 1:
        return values
    missing = np.full(-len(values) % size, np.nan)
    return mean_of_known(np.append(values, missing).reshape(-1, size), 1)
