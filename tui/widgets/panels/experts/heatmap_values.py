"""Quantities that the heatmap can show: usage, weight mass, saliency and damage by ablation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from moe_watch.routing.arrays import Floats
from moe_watch.sessions.experts.importance import Importance
from moe_watch.sessions.text import plural
from moe_watch.tui.state.frame import Frame
from moe_watch.tui.state.run import RunView
from moe_watch.tui.text.format import NOT_AVAILABLE, count, number, percent
from moe_watch.tui.text.sanitize import one_line
from moe_watch.tui.widgets.panels.experts.colour_scale import scale_end

QuantityName = Literal["usage", "weight", "saliency", "damage"]
FILE_NAME = 24
"""Characters shown of a file's name."""


@dataclass(frozen=True)
class HeatmapValues:
    """Values of one quantity, and its words."""

    quantity: QuantityName
    values: Floats
    """`[L, E]`: shares of a layer, or parts of its highest value; NaN where nothing is known."""
    scale: float
    """Value at the end of the colour scale."""
    title: str
    ends: tuple[str, str]
    """Labels of the colour scale's ends."""
    amounts: Floats
    """`[L, E]` in the quantity's own unit: selections, weight mass, saliency, nats."""
    source: str = ""
    """Name of the file that the values are from."""

    @property
    def is_share(self) -> bool:
        """Values are shares of a layer."""
        return self.quantity in ("usage", "weight")

    def tops(self, names: Sequence[Sequence[int]] | None = None) -> list[str]:
        """Return the top expert of each layer and its value: `6 38 %`; `names` are other numbers for the experts."""
        values = np.where(np.isnan(self.values), -np.inf, self.values)
        found = []
        for layer, top in enumerate(values.argmax(1).tolist()):
            value, name = float(values[layer, top]), top if names is None else names[layer][top]
            if value == -np.inf:
                found.append(NOT_AVAILABLE)
            else:
                shown = f"{100 * value:>3.0f} %" if self.is_share else f"{self.amounts[layer, top]:>5.3g}"
                found.append(f"{name} {shown}")
        return found

    def facts(self, layer: int, expert: int) -> list[str]:
        """Return the value of one expert in words, the longest form first."""
        value, amount = float(self.values[layer, expert]), float(self.amounts[layer, expert])
        if self.quantity == "usage":
            of = f"{percent(value)} of {count(int(self.amounts[layer].sum()))}"
            lift = f" · {value * self.values.shape[1]:.1f}×"
            return [f"{of} selections{lift} the even share", f"{of} selections{lift} even", f"{of}{lift} even"]
        if self.quantity == "weight":
            of, mass = f"{percent(value)} of the weight mass", number(amount, 1)
            return [f"{of}, {mass} of {number(float(self.amounts[layer].sum()), 1)}", of]
        if np.isnan(amount):
            why = "never routed, no saliency" if self.quantity == "saliency" else "not measured"
            return [f"{why} ({self.source})", why]
        if self.quantity == "saliency":
            whole, of = f"saliency {amount:.4g}", f"{percent(value, 0)} of"
            parts = [f"{whole} · {of} its layer’s highest", f"{whole} · {of} the highest", whole]
        else:
            parts = [f"{amount:+.4f} nats per token without it".replace("-", "−")]
        return [f"{parts[0]} ({self.source})", *parts]


def known_quantities(frame: Frame) -> list[QuantityName]:
    """Return the quantities that are known for the run on the screen."""
    importance = frame.importance
    found: list[QuantityName] = ["usage"]
    if frame.view.usage.mass is not None:
        found.append("weight")
    if importance is not None and importance.saliency is not None:
        found.append("saliency")
    if importance is not None and importance.damage is not None:
        found.append("damage")
    return found


def values_of(frame: Frame, kind: QuantityName) -> HeatmapValues | None:
    """Return the values of a quantity; None while there are none."""
    view, importance = frame.view, frame.importance
    if kind in ("saliency", "damage") and importance is not None:
        return _imported(importance, kind)
    if view.window is None or not view.window.tokens:
        return None
    if kind == "weight" and view.usage.mass is not None:
        return _weight(view)
    counts = view.window.usage.counts
    return _shares("usage", view.window.usage.shares(), counts.astype(np.float64), f"usage, {view.window_text}")


def _shares(kind: QuantityName, values: Floats, amounts: Floats, title: str) -> HeatmapValues:
    end = scale_end(values)
    more = "≥ " if np.nanmax(values, initial=0.0) > end else ""
    return HeatmapValues(kind, values, end, title, ("0 %", f"{more}{100 * end:.3g} % of a layer"), amounts)


def _weight(view: RunView) -> HeatmapValues:
    usage = view.usage
    mass = np.zeros(usage.usage.counts.shape) if usage.mass is None else usage.mass
    with np.errstate(invalid="ignore"):
        values: Floats = mass / mass.sum(1, keepdims=True)
    since = f" from token {count(usage.weighted_from)} on" if usage.weighted_from else ""
    return _shares("weight", values, mass, f"weight mass, {plural(usage.weighted, 'token')}{since}")


def _imported(importance: Importance, kind: QuantityName) -> HeatmapValues | None:
    amounts = importance.saliency if kind == "saliency" else importance.damage
    if amounts is None:
        return None
    highest = np.nanmax(np.where(np.isnan(amounts), -np.inf, amounts), axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        values: Floats = np.where(highest > 0, amounts / highest, np.where(np.isnan(amounts), np.nan, 0.0))
    source = one_line(importance.source(kind), FILE_NAME)
    name = "saliency" if kind == "saliency" else "damage by ablation"
    return HeatmapValues(kind, values, 1.0, f"{name}, {source}", ("0", "its layer’s highest"), amounts, source)
