"""Line below the heatmap: facts of the expert, the layer or the column under the cursor."""

from __future__ import annotations

import numpy as np

from moe_watch.routing.header import ModelInfo
from moe_watch.sessions.text import plural
from moe_watch.tui.drawing.colours import Palette
from moe_watch.tui.drawing.line import CellLine, Part
from moe_watch.tui.state.expert_numbers import expert_ids
from moe_watch.tui.state.frame import Frame
from moe_watch.tui.state.mask_words import OFF
from moe_watch.tui.text.format import count
from moe_watch.tui.widgets.panels.experts.cursor import HeatmapCursor
from moe_watch.tui.widgets.panels.experts.heatmap_values import HeatmapValues


def readout(
    row: CellLine, ink: Palette, frame: Frame, shown: HeatmapValues, at: HeatmapCursor, *, pointed: bool
) -> CellLine:
    """Draw the longest form that fits.

    Args:
        row: the empty line.
        ink: palette.
        frame: of the run.
        shown: quantity that is shown.
        at: place to describe.
        pointed: it is under the cursor, and not the one with the highest value.
    """
    header = frame.view.header
    if header is None:
        return row
    lead = ("▸ ", ink.accent) if pointed else ("▴ ", ink.muted)
    where, off = _place(header.model, at), _off(frame, at)
    switched = [(f" · {OFF} {off}", ink.status.warn)] if off else []
    facts = _of_layer(frame, at) if at.cell is None else shown.facts(*at.cell)
    forms: list[list[Part]] = []
    for text in facts:
        first, _, rest = text.partition(" · ")
        tail = [(f" · {rest}", ink.muted)] if rest else []
        forms.append([lead, (where, ink.strong), *switched, (f" · {first}", ink.text), *tail])
    forms.append([lead, (where, ink.strong), *switched])
    return row.first_that_fits(*forms)


def _place(model: ModelInfo, at: HeatmapCursor) -> str:
    """Return the name of a place; the experts of a pruned model have their numbers in the whole model too."""
    if at.expert is None:
        return f"layer {model.layers[at.layer or 0]}, every expert"
    if at.layer is None:
        return f"expert {at.expert} of every layer"
    ids = expert_ids(model)
    whole = "" if ids is None else f" ({ids[at.layer][at.expert]} in the whole model)"
    return f"layer {model.layers[at.layer]} · expert {at.expert}{whole}"


def _off(frame: Frame, at: HeatmapCursor) -> str:
    """Return how many of the experts of a place are off; empty if all are on."""
    view = frame.view
    if view.header is None or not view.mask:
        return ""
    pairs = at.pairs(view.header.model.layers, view.header.model.experts)
    off = len(set(pairs) & set(view.mask.pairs))
    if not off:
        return ""
    return "off" if at.cell is not None else f"{off} of {len(pairs)} off"


def _of_layer(frame: Frame, at: HeatmapCursor) -> list[str]:
    """Return the selections of a layer, or of one expert in all layers."""
    window = frame.view.window
    if window is None or not window.tokens:
        return ["no token yet"]
    counts = window.usage.counts
    if at.layer is not None:
        never = int(np.count_nonzero(counts[at.layer] == 0))
        selections = f"{plural(int(counts[at.layer].sum()), 'selection')}"
        return [f"{selections} · {plural(never, 'expert')} without any", selections]
    share = float(counts[:, at.expert].sum() / max(1, counts.sum()))
    return [f"{100 * share:.1f} % of {count(int(counts.sum()))} selections", f"{100 * share:.1f} %"]
