"""Colour scale of the heatmap: the level of an expert's share.

An expert's colour is chosen in three steps. `scale_end` sets the share of the brightest level, `heatmap_levels` turns
shares into levels, and the cell renderer takes the level's colour from the palette (`drawing/colours.py`), unless the
cell is under the cursor or selected by the newest token.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moe_watch.routing.arrays import Floats
from moe_watch.tui.drawing.colours import HEATMAP_LEVELS

Levels = npt.NDArray[np.int16]

SCALE_ENDS = (2.0, 3.0, 4.0, 6.0, 8.0)
"""Possible ends of the scale, as multiples of the even share, so that the scale does not move with every token.

Shares above the last one get the brightest level: a single expert must not darken all others.
"""


def scale_end(shares: Floats) -> float:
    """Return the share at the end of the colour scale, a multiple of the even share 1 / E."""
    even = 1 / shares.shape[-1]
    largest = np.nanmax(shares, initial=0.0)
    multiple = next((multiple for multiple in SCALE_ENDS if multiple * even >= largest), SCALE_ENDS[-1])
    return float(min(1.0, multiple * even))


def heatmap_levels(shares: Floats, end: float) -> Levels:
    """Return shares `[L, E]` as levels 0 … `HEATMAP_LEVELS` − 1 of a scale to `end`; −1 without observations."""
    with np.errstate(invalid="ignore"):
        levels = np.minimum(shares * ((HEATMAP_LEVELS - 1) / end) + 0.5, HEATMAP_LEVELS - 1)
    return np.where(np.isnan(levels), -1, levels).astype(np.int16)
