"""Cursor of the heatmap: a cell, the head of a row (a layer), or the head of a column (an expert in every layer)."""

from __future__ import annotations

from typing import NamedTuple


class HeatmapCursor(NamedTuple):
    """Place of the cursor; at least one of both is a number."""

    layer: int | None
    """Position in the model's list of MoE layers; None at the head of a column."""
    expert: int | None
    """None at the head of a row."""

    @property
    def cell(self) -> tuple[int, int] | None:
        """Layer and expert of a cell; None at a head."""
        return None if self.layer is None or self.expert is None else (self.layer, self.expert)

    def on_head(self, layers: int, experts: int, shape: tuple[int, int]) -> HeatmapCursor | None:
        """Return the head that a step leads to along heads; None if it leads into the cells."""
        if self.layer is None and self.expert is not None and layers <= 0:
            return HeatmapCursor(None, min(max(self.expert + experts, 0), shape[1] - 1))
        if self.expert is None and self.layer is not None and experts <= 0:
            return HeatmapCursor(min(max(self.layer + layers, 0), shape[0] - 1), None)
        return None

    def pairs(self, layer_ids: list[int], experts: int) -> list[tuple[int, int]]:
        """Return the model layer index and the number of each expert that the cursor is on."""
        layers = layer_ids if self.layer is None else [layer_ids[self.layer]]
        return [
            (layer, expert)
            for layer in layers
            for expert in (range(experts) if self.expert is None else (self.expert,))
        ]
