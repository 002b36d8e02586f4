from __future__ import annotations

from math import nan

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.style import Style

from moe_watch.tui.drawing.braille import BrailleCanvas, sparkline
from moe_watch.tui.drawing.chart import ChartAxis

INK, OTHER = Style(color="red"), Style(color="blue")


def drawing(canvas):
    blank = (" ", None)
    return ["".join(canvas.cells(y).get(x, blank)[0] for x in range(canvas.width)) for y in range(canvas.height)]


def test_a_line_from_corner_to_corner():
    canvas = BrailleCanvas(4, 2, (0, 1), (0, 1))
    canvas.line((0, 0), (1, 1), INK)
    assert drawing(canvas) == ["  ⡠⠊", "⡠⠊  "]


def test_one_point_is_one_dot():
    canvas = BrailleCanvas(3, 1, (0, 10), (0, 1))
    canvas.curve([(0.0, 0.0)], INK)
    assert drawing(canvas) == ["⡀  "]


def test_a_gap_is_left_where_nothing_is_known():
    canvas = BrailleCanvas(4, 1, (0, 3), (0, 1))
    canvas.curve([(0.0, 1.0), (1.0, nan), (2.0, 1.0), (3.0, 1.0)], INK)
    assert drawing(canvas)[0].startswith("  ")
    assert drawing(canvas)[0].strip()


def test_the_later_curve_wins_a_shared_cell():
    canvas = BrailleCanvas(1, 1, (0, 1), (0, 1))
    canvas.dot(0, 0, INK)
    canvas.dot(1, 3, OTHER)
    assert canvas.cells(0) == {0: ("⢁", OTHER)}


def test_nothing_is_drawn_outside():
    canvas = BrailleCanvas(2, 1, (0, 1), (0, 1))
    canvas.line((-5, -5), (-1, -1), INK)
    assert drawing(canvas) == ["  "]


@pytest.mark.parametrize(
    ("values", "width", "height", "expected"),
    [
        ([0, 1, 2, 3], 6, 1, ["  ▁▃▅▆"]),
        ([0, 3], 2, 2, [" ▆", "▁█"]),
        ([9, 9, 0, 3], 2, 1, ["▁▆"]),
        ([0, nan, 3], 3, 1, ["▁ ▆"]),
        ([], 3, 1, ["   "]),
        ([1], 0, 1, [""]),
    ],
    ids=["right-aligned", "two-rows", "last-ones", "gap", "empty", "no-room"],
)
def test_sparkline(values, width, height, expected):
    assert sparkline(values, width, height, 0, 3) == expected


@given(st.lists(st.floats(-1, 1, allow_nan=False), min_size=1, max_size=20), st.integers(1, 9))
def test_an_axis_covers_its_values_in_few_nice_steps(values, most_steps):
    axis = ChartAxis.around(values, least=0.1, most_steps=most_steps)
    assert axis.low <= min(values) + 1e-9
    assert axis.high >= max(values) - 1e-9
    assert axis.high - axis.low >= 0.1 - 1e-9
    assert 2 <= len(axis.ticks) <= max(2, most_steps) + 1
    assert f"{axis.step:.0e}"[0] in "125"


def test_ticks_are_written_with_as_many_digits_as_they_need():
    assert ChartAxis.around([0.45, 0.5], least=0.1, most_steps=3).digits == 2
    assert ChartAxis.around([0.0, 1.0], least=0.1, most_steps=2).digits == 1
    assert ChartAxis.around([0.0, 40.0], least=0.1, most_steps=4).digits == 0
