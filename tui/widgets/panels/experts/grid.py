"""How a grid of layers × experts fits into the cells of a terminal. No drawing here."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from moe_watch.routing.arrays import ABSENT, Flags, Floats, Ints
from moe_watch.tui.drawing.colours import HEAT_LEVELS

Levels = npt.NDArray[np.int16]

MAX_CELL_WIDTH = 12
MAX_ROWS_PER_LAYER = 5
NICE_LIFTS = (2.0, 3.0, 4.0, 6.0, 8.0)
"""Where the scale may end, in multiples of the even share: it must not move with every token.

What is above the last one is drawn as bright as it: one expert alone must not darken all others.
"""


@dataclass(frozen=True)
class HeatGrid:
    """The geometry of a heatmap.

    Experts are put together by `expert_bin` in columns, layers by `layer_bin` in bands. A band takes
    `rows_per_band` rows, or half a row if that is 0.
    """

    layers: int
    experts: int
    expert_bin: int
    layer_bin: int
    cell_width: int
    rows_per_band: int

    @classmethod
    @lru_cache(maxsize=64)
    def fit(cls, layers: int, experts: int, width: int, height: int, *, halves: bool = True) -> HeatGrid:
        """The largest cells that show everything in `width` × `height` cells; without `halves`, whole rows only."""
        width, height = max(1, width), max(1, height)
        expert_bin = -(-experts // width)
        cell_width = min(MAX_CELL_WIDTH, width // -(-experts // expert_bin))
        if height >= layers:
            return cls(layers, experts, expert_bin, 1, cell_width, min(MAX_ROWS_PER_LAYER, height // layers))
        layer_bin = -(-layers // (2 * height if halves else height))
        return cls(layers, experts, expert_bin, layer_bin, cell_width, 0 if halves else 1)

    @property
    def columns(self) -> int:
        """Columns of cells."""
        return -(-self.experts // self.expert_bin)

    @property
    def bands(self) -> int:
        """Rows of cells."""
        return -(-self.layers // self.layer_bin)

    @property
    def rows(self) -> int:
        """Terminal rows."""
        return self.bands * self.rows_per_band if self.rows_per_band else -(-self.bands // 2)

    @property
    def gap(self) -> bool:
        """Cells are wide enough to leave their last column as a gap."""
        return self.cell_width >= 3

    @property
    def binning(self) -> str:
        """What a cell holds, if it holds more than one expert of one layer."""
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
        """Maximum over each cell: `[L, E]` to `[bands, columns]`."""
        if self.layer_bin > 1:
            levels = np.maximum.reduceat(levels, self._band_starts, axis=0)
        if self.expert_bin > 1:
            levels = np.maximum.reduceat(levels, self._column_starts, axis=1)
        return levels

    def selected(self, experts: Ints | None) -> Flags:
        """Cells that hold a selected expert; `experts` is `[L, k]`.

        Where a cell holds several experts only the top one counts: some of the others would be in almost every cell.
        """
        flags = np.zeros((self.bands, self.columns), np.bool_)
        if experts is not None:
            experts = experts[:, :1] if self.binning else experts
            known = experts != ABSENT
            bands = np.arange(self.layers)[:, None] // self.layer_bin
            flags[np.broadcast_to(bands, experts.shape)[known], experts[known] // self.expert_bin] = True
        return flags

    def band_at(self, row: int, *, lower: bool = False) -> int | None:
        """The band drawn in a terminal row, for half rows the upper or lower one; None below the last."""
        band = row // self.rows_per_band if self.rows_per_band else 2 * row + lower
        return band if 0 <= band < self.bands else None

    def row_of(self, band: int) -> int:
        """The first terminal row of a band."""
        return band * self.rows_per_band if self.rows_per_band else band // 2


def nice_scale(shares: Floats) -> float:
    """Where the colour scale ends, as a share: a steady multiple of the even share."""
    even = 1 / shares.shape[-1]
    largest = np.nanmax(shares, initial=0.0)
    lift = next((lift for lift in NICE_LIFTS if lift * even >= largest), NICE_LIFTS[-1])
    return float(min(1.0, lift * even))


def quantise(shares: Floats, scale: float) -> Levels:
    """Shares `[L, E]` as levels 0 … `HEAT_LEVELS` − 1 of the scale, −1 where nothing was observed."""
    with np.errstate(invalid="ignore"):
        levels = np.minimum(shares * ((HEAT_LEVELS - 1) / scale) + 0.5, HEAT_LEVELS - 1)
    return np.where(np.isnan(levels), -1, levels).astype(np.int16)
