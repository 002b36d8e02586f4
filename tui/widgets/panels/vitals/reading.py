"""One reading of the vitals panel, and the palette's words for good and bad."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.style import Style

from moe_watch.tui.drawing.colours import Palette

LABEL_WIDTH = 12


@dataclass(frozen=True, slots=True)
class Reading:
    """One line: label, value, history, and a note on its source."""

    label: str
    value: str
    style: Style
    history: Sequence[float] = ()
    low: float = 0.0
    high: float = 1.0
    share: float | None = None
    """Share of the total, for a bar."""
    note: str = ""


def level_style(ink: Palette, share: float, warn: float, bad: float) -> Style:
    """Return the style of a share that is a warning from `warn` on and bad from `bad` on."""
    return ink.status.bad if share >= bad else ink.status.warn if share >= warn else ink.text
