from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_watch.tui.drawing.colours import HEATMAP_LEVELS
from moe_watch.tui.widgets.panels.experts.cell_layout import CellLayout
from moe_watch.tui.widgets.panels.experts.colour_scale import heatmap_levels, scale_end


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
    layout = CellLayout.fit(layers, experts, width, height)
    assert {name: getattr(layout, name) for name in expected} == expected


@given(st.integers(1, 94), st.integers(1, 512), st.integers(1, 150), st.integers(1, 50), st.booleans())
@settings(max_examples=200, deadline=None)
def test_everything_always_fits(layers, experts, width, height, halves):
    layout = CellLayout.fit(layers, experts, width, height, halves=halves)
    assert layout.columns * layout.cell_width <= width
    assert layout.rows <= height
    assert layout.columns * layout.expert_bin >= experts
    assert layout.bands * layout.layer_bin >= layers
    drawn = {layout.band_at(row, lower=lower) for row in range(layout.rows) for lower in (False, True)} - {None}
    assert drawn == set(range(layout.bands))


def test_bins_show_their_maximum_and_say_so():
    layout = CellLayout.fit(4, 6, 3, 1)
    levels = np.arange(24, dtype=np.int16).reshape(4, 6)
    assert layout.binning == "max of 2 layers × 2 experts"
    assert layout.bin(levels).tolist() == [[7, 9, 11], [19, 21, 23]]
    assert CellLayout.fit(4, 6, 60, 20).binning == ""


def test_selected_cells():
    layout = CellLayout.fit(2, 4, 40, 10)
    assert layout.selected(np.array([[3, 0], [-1, -1]])).tolist() == [[True, False, False, True], [False] * 4]
    assert not layout.selected(None).any()


def test_where_cells_hold_several_experts_only_the_top_one_lights_up():
    layout = CellLayout.fit(1, 8, 4, 1)
    assert layout.selected(np.array([[6, 0, 1]])).tolist() == [[False, False, False, True]]


def test_levels_span_the_scale_and_mark_what_was_not_observed():
    shares = np.array([[0.0, 0.1, 0.4, 0.5], [np.nan] * 4])
    levels = heatmap_levels(shares, 0.4)
    assert levels[0].tolist() == [0, 6, HEATMAP_LEVELS - 1, HEATMAP_LEVELS - 1]
    assert levels[1].tolist() == [-1] * 4


@pytest.mark.parametrize(("largest", "scale"), [(0.13, 0.25), (0.3, 0.375), (0.5, 0.5), (0.9, 1.0)])
def test_the_scale_ends_at_a_steady_multiple_of_the_even_share(largest, scale):
    assert scale_end(np.array([[largest, 0.05] + [0.0] * 6])) == pytest.approx(scale)


def test_one_dominant_expert_among_many_does_not_darken_the_others():
    assert scale_end(np.array([[0.12] + [0.88 / 127] * 127])) == pytest.approx(8 / 128)
