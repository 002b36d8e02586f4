"""Figure of a comparison. Needs matplotlib, which the extra `report` installs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from moe_watch.sessions.comparing.pairs import Comparison, SourcePair
from moe_watch.sessions.comparing.sources import ComparedSource, letter
from moe_watch.sessions.measuring.folder import creating

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = (".png", ".svg", ".pdf")
WIDTH, HEIGHT = 7.5, 3.4
"""Inches; the height of one panel."""


def draw(found: Comparison, path: Path) -> None:
    """Draw mid-pressure of all sources and, where available, usage distance and agreement by layer.

    With one version of matplotlib, the same comparison gives the same file, byte for byte.

    Raises:
        UserError: the file cannot be written.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    panels = _panels(found)
    with mpl.rc_context(
        {"svg.hashsalt": "moe-watch", "text.parse_math": False, "axes.spines.top": False, "axes.spines.right": False}
    ):
        figure = Figure(figsize=(WIDTH, HEIGHT * len(panels)), dpi=150, layout="constrained")
        for axes, paint in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True):
            paint(axes, found)
        metadata = {".svg": {"Date": None}, ".png": {"Software": None}, ".pdf": {"CreationDate": None}}
        with creating(path, "--figure"):
            figure.savefig(path, metadata=metadata[path.suffix])


def _panels(found: Comparison) -> list[Callable[[Axes, Comparison], None]]:
    panels: list[Callable[[Axes, Comparison], None]] = [_trajectories]
    if any(not isinstance(pair.usage, str) for pair in found.pairs):
        panels.append(_usage)
    if any(_has_routing(pair) for pair in found.pairs):
        panels.append(_agreement)
    return panels


def _has_routing(pair: SourcePair) -> bool:
    return not isinstance(pair.tokens, str) and pair.tokens.routing is not None


def _label(at: int, source: ComparedSource) -> str:
    return f"{letter(at)}: {source.path.name}"


def _trajectories(axes: Axes, found: Comparison) -> None:
    """Draw each run thin, the mean of a source's runs over their common chunks, and half-lives as dotted lines."""
    drawn = False
    for at, source in enumerate(found.sources):
        colour = f"C{at}"
        runs = [run for run in source.runs if run.mid]
        for run in runs if len(runs) > 1 else []:
            axes.plot(run.positions, run.mid, color=colour, linewidth=0.6, alpha=0.4)
        if runs:
            length = min(len(run.mid) for run in runs)
            mean = np.mean([run.mid[:length] for run in runs], axis=0)
            axes.plot(runs[0].positions[:length], mean, color=colour, label=_label(at, source))
            drawn = True
        for fit in (fit for fit in source.fits if fit.half_life is not None):
            axes.axvline(fit.first + (fit.half_life or 0.0), color=colour, linestyle=":", linewidth=0.9)
    if not drawn:
        axes.text(0.5, 0.5, _nothing(found), ha="center", va="center", transform=axes.transAxes)
    _finish(axes, "chunk (dotted: half-lives)", "mid-pressure", legend=drawn)


def _nothing(found: Comparison) -> str:
    """Return the reason that no trajectory is drawn."""
    if all(source.is_dense for source in found.sources):
        return "dense models have no router, and so no pressure"
    return "no run has a measured chunk"


def _usage(axes: Axes, found: Comparison) -> None:
    for at, pair in enumerate(found.pairs, 1):
        if not isinstance(pair.usage, str):
            axes.plot(pair.usage.distance, "o-", color=f"C{at}", markersize=3, label=_label(at, pair.b))
    axes.set_ylim(bottom=0)
    _finish_by_layer(axes, "usage, Jensen–Shannon\ndistance to A")


def _agreement(axes: Axes, found: Comparison) -> None:
    for at, pair in enumerate(found.pairs, 1):
        routing = None if isinstance(pair.tokens, str) else pair.tokens.routing
        if routing is None:
            continue
        rows = np.where(routing.rows > 0, routing.rows, np.nan)
        axes.plot(100 * routing.sets / rows, "o-", color=f"C{at}", markersize=3, label=f"{_label(at, pair.b)}, sets")
        if routing.ordered:
            axes.plot(100 * routing.top_1 / rows, "s--", color=f"C{at}", markersize=3, label="top-1")
    axes.set_ylim(top=101)
    _finish_by_layer(axes, "rows that agree with A, %")


def _finish_by_layer(axes: Axes, y: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _finish(axes, "MoE layer", y)


def _finish(axes: Axes, x: str, y: str, *, legend: bool = True) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if legend:
        axes.legend(fontsize=7, framealpha=0.85, edgecolor="none")
