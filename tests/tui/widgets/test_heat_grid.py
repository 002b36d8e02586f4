from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_watch.tui.drawing.colours import HEAT_LEVELS
from moe_watch.tui.widgets.panels.experts.grid import HeatGrid, nice_scale, quantise


@pytest.mark.parametrize(
    ("layers", "experts", "width", "height", "expected"),
    [
        (6, 8, 45, 13, {"cell_width": 5, "rows_per_band": 2, "expert_bin": 1, "layer_bin": 1, "rows": 12}),
        (6, 8, 200, 60, {"cell_width": 12, "rows_per_band": 5, "rows": 30}),
        (32, 8, 45, 16, {"cell_width": 5, "rows_per_band": 0, "layer_bin": 1, "rows": 16}),
        (
            48,
            128,
            53,
            14,
            {"cell_width": 1, "rows_per_band": 0, "expert_bin": 3, "layer_bin": 2, "columns": 43, "rows": 12},
        ),
        (94, 512, 53, 14, {"expert_bin": 10, "layer_bin": 4, "columns": 52, "bands": 24, "rows": 12}),
        (6, 8, 5, 2, {"expert_bin": 2, "layer_bin": 2, "columns": 4, "bands": 3, "rows": 2}),
    ],
    ids=["pocket", "pocket-large", "mixtral", "qwen", "largest", "tiny"],
)
def test_geometry(layers, experts, width, height, expected):
    grid = HeatGrid.fit(layers, experts, width, height)
    assert {name: getattr(grid, name) for name in expected} == expected


@given(st.integers(1, 94), st.integers(1, 512), st.integers(1, 150), st.integers(1, 50), st.booleans())
@settings(max_examples=200, deadline=None)
def test_everything_always_fits(layers, experts, width, height, halves):
    grid = HeatGrid.fit(layers, experts, width, height, halves=halves)
    assert grid.columns * grid.cell_width <= width
    assert grid.rows <= height
    assert grid.columns * grid.expert_bin >= experts
    assert grid.bands * grid.layer_bin >= layers
    drawn = {grid.band_at(row, lower=lower) for row in range(grid.rows) for lower in (False, True)} - {None}
    assert drawn == set(range(grid.bands))


def test_bins_show_their_maximum_and_say_so():
    grid = HeatGrid.fit(4, 6, 3, 1)
    levels = np.arange(24, dtype=np.int16).reshape(4, 6)
    assert grid.binning == "max of 2 layers × 2 experts"
    assert grid.bin(levels).tolist() == [[7, 9, 11], [19, 21, 23]]
    assert HeatGrid.fit(4, 6, 60, 20).binning == ""


def test_selected_cells():
    grid = HeatGrid.fit(2, 4, 40, 10)
    assert grid.selected(np.array([[3, 0], [-1, -1]])).tolist() == [[True, False, False, True], [False] * 4]
    assert not grid.selected(None).any()


def test_where_cells_hold_several_experts_only_the_top_one_lights_up():
    grid = HeatGrid.fit(1, 8, 4, 1)
    assert grid.selected(np.array([[6, 0, 1]])).tolist() == [[False, False, False, True]]


def test_levels_span_the_scale_and_mark_what_was_not_observed():
    shares = np.array([[0.0, 0.1, 0.4, 0.5], [np.nan] * 4])
    levels = quantise(shares, 0.4)
    assert levels[0].tolist() == [0, 6, HEAT_LEVELS - 1, HEAT_LEVELS - 1]
    assert levels[1].tolist() == [-1] * 4


@pytest.mark.parametrize(("largest", "scale"), [(0.13, 0.25), (0.3, 0.375), (0.5, 0.5), (0.9, 1.0)])
def test_the_scale_ends_at_a_steady_multiple_of_the_even_share(largest, scale):
    assert nice_scale(np.array([[largest, 0.05] + [0.0] * 6])) == pytest.approx(scale)


def test_one_dominant_expert_among_many_does_not_darken_the_others():
    assert nice_scale(np.array([[0.12] + [0.88 / 127] * 127])) == pytest.approx(8 / 128)
