"""Layout of layers × experts in the cells of a terminal. Nothing is drawn here."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from moe_watch.routing.arrays import ABSENT, Flags, Ints
from moe_watch.tui.widgets.panels.experts.colour_scale import Levels

MAX_CELL_WIDTH = 12
MAX_ROWS_PER_LAYER = 5


@dataclass(frozen=True)
class CellLayout:
    """Geometry of a heatmap.

    A column holds `expert_bin` experts, a band `layer_bin` layers. A band takes `rows_per_band` terminal rows, or half
    a row if that is 0.
    """

    layers: int
    experts: int
    expert_bin: int
    layer_bin: int
    cell_width: int
    rows_per_band: int

    @classmethod
    @lru_cache(maxsize=64)
    def fit(cls, layers: int, experts: int, width: int, height: int, *, halves: bool = True) -> CellLayout:
        """Return the layout with the largest cells that fits in `width` × `height`; without `halves`, in whole rows."""
        width, height = max(1, width), max(1, height)
        expert_bin = -(-experts // width)
        cell_width = min(MAX_CELL_WIDTH, width // -(-experts // expert_bin))
        if height >= layers:
            return cls(layers, experts, expert_bin, 1, cell_width, min(MAX_ROWS_PER_LAYER, height // layers))
        layer_bin = -(-layers // (2 * height if halves else height))
        return cls(layers, experts, expert_bin, layer_bin, cell_width, 0 if halves else 1)

    @property
    def columns(self) -> int:
        """Number of columns."""
        return -(-self.experts // self.expert_bin)

    @property
    def bands(self) -> int:
        """Number of bands."""
        return -(-self.layers // self.layer_bin)

    @property
    def rows(self) -> int:
        """Number of terminal rows."""
        return self.bands * self.rows_per_band if self.rows_per_band else -(-self.bands // 2)

    @property
    def gap(self) -> bool:
        """Cells are wide enough for a gap in their last terminal cell."""
        return self.cell_width >= 3

    @property
    def binning(self) -> str:
        """Contents of a cell in words; empty if it holds one expert of one layer."""
        bins = ((self.layer_bin, "layers"), (self.expert_bin, "experts"))
        parts = [f"{size} {name}" for size, name in bins if size > 1]
        return f"max of {' × '.join(parts)}" if parts else ""

    @cached_property
    def _band_starts(self) -> Ints:
        return np.arange(0, self.layers, self.layer_bin)

    @cached_property
    def _column_starts(self) -> Ints:
        return np.arange(0, self.experts, self.expert_bin)

    def bin(self, levels: Levels) -> Levels:
        """Return the maximum level in each cell: `[L, E]` to `[bands, columns]`."""
        if self.layer_bin > 1:
            levels = np.maximum.reduceat(levels, self._band_starts, axis=0)
        if self.expert_bin > 1:
            levels = np.maximum.reduceat(levels, self._column_starts, axis=1)
        return levels

    def selected(self, experts: Ints | None) -> Flags:
        """Return the cells with a selected expert, `[bands, columns]`; `experts` is `[L, k]`.

        If a cell holds several experts, only the top expert counts: the others would select almost every cell.
        """
        flags = np.zeros((self.bands, self.columns), np.bool_)
        if experts is not None:
            experts = experts[:, :1] if self.binning else experts
            known = experts != ABSENT
            bands = np.arange(self.layers)[:, None] // self.layer_bin
            flags[np.broadcast_to(bands, experts.shape)[known], experts[known] // self.expert_bin] = True
        return flags

    def band_at(self, row: int, *, lower: bool = False) -> int | None:
        """Return the band in a terminal row, for half rows the upper or lower one; None below the last band."""
        band = row // self.rows_per_band if self.rows_per_band else 2 * row + lower
        return band if 0 <= band < self.bands else None

    def row_of(self, band: int) -> int:
        """Return the first terminal row of a band."""
        return band * self.rows_per_band if self.rows_per_band else band // 2
