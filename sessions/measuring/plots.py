"""Figures of a measurement. Requires matplotlib, which the extra `report` installs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from moe_watch.backends.optional_packages import install_command
from moe_watch.sessions.measuring.estimates import Estimates
from moe_watch.sessions.measuring.report import half_life_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = ("png", "svg")
RUNS, MEAN, OTHER, ZERO = "#9aa5b1", "#0b62a4", "#c1440e", "#444444"
SIZE = (7.5, 4.2)
"""Inches."""


def can_draw() -> bool:
    """Return whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def how_to_draw() -> str:
    """Return the message for a missing matplotlib."""
    install = install_command("report")
    return f"no figures: matplotlib is not installed; run `{install}`, and the same command draws them"


def draw(findings: Estimates, folder: Path) -> list[Path]:
    """Draw all figures that the findings have data for, as PNG and SVG; returns the PNG files.

    With one version of matplotlib, equal findings give bit-identical files.

    Raises:
        OSError: a file cannot be written.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    folder.mkdir(exist_ok=True)
    drawn = []
    with mpl.rc_context(
        {"svg.hashsalt": "moe-watch", "text.parse_math": False, "axes.spines.top": False, "axes.spines.right": False}
    ):
        for name, paint in _pictures(findings).items():
            figure = Figure(figsize=_size(name, findings), dpi=150, layout="constrained")
            paint(figure.add_subplot(), findings)
            for suffix in FORMATS:
                metadata = {"Date": None} if suffix == "svg" else {"Software": None}
                figure.savefig(folder / f"{name}.{suffix}", metadata=metadata)
            drawn.append(folder / f"{name}.png")
    return drawn


def _pictures(findings: Estimates) -> dict[str, Callable[[Axes, Estimates], None]]:
    found: dict[str, Callable[[Axes, Estimates], None]] = {
        "trajectories": _trajectories,
        "entropy": _entropy,
    }
    if any(each.fit.interval for each in findings.plain):
        found["half_lives"] = _half_lives
    if findings.late:
        found["control"] = _control
    if findings.boundaries:
        found["external_energy"] = _energy
    return found


def _size(name: str, findings: Estimates) -> tuple[float, float]:
    """Return width and height in inches; each half-life has its row."""
    width, height = SIZE
    return (width, max(height, 0.16 * len(findings.plain) + 1)) if name == "half_lives" else SIZE


def _trajectories(axes: Axes, findings: Estimates) -> None:
    _curves(axes, [each.run.mid for each in findings.plain])
    fit, t = findings.mean_fit, np.arange(len(findings.mean))
    low, high = fit.band(t)
    axes.fill_between(t, low, high, color=OTHER, alpha=0.2, linewidth=0)
    axes.plot(t, fit.chosen.values(t), color=OTHER, linestyle="--", label=f"fit of the mean: {fit.verdict}")
    axes.axhline(fit.start / 2, color=ZERO, linewidth=0.8, linestyle=":", label="half of its start")
    _label(axes, "measured chunk", f"mid-pressure ({findings.mode})")


def _half_lives(axes: Axes, findings: Estimates) -> None:
    """Draw the observed half-lives with intervals; other runs show their verdict as text."""
    from matplotlib.ticker import MaxNLocator

    last = max(each.fit.span for each in findings.plain)
    for each in findings.plain:
        fit, row = each.fit, each.run.planned.number
        if fit.half_life is None:
            why = half_life_text(fit)
            said = fit.verdict if why == "none" else f"{fit.verdict}, {why}"
            axes.text(0.02 * last, row, said, va="center", fontsize=7, color=ZERO)
            continue
        low, high = fit.interval or (fit.half_life, fit.half_life)
        axes.plot([low, min(high, 2 * last)], [row, row], color=MEAN)
        axes.plot([fit.half_life], [row], "o", color=MEAN)
    axes.set_xlim(0, last)
    axes.set_ylim(len(findings.plain) + 0.5, 0.5)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("half-life, chunks")
    axes.set_ylabel("run")


def _entropy(axes: Axes, findings: Estimates) -> None:
    _curves(axes, [each.run.entropy for each in findings.plain])
    _label(axes, "measured chunk", "router entropy (1 is undecided)")


def _control(axes: Axes, findings: Estimates) -> None:
    """Draw both means against position: if late twins follow the baseline curve, position explains the trend."""
    size = findings.plan.spec.chunk_size
    for runs, colour, name in ((findings.plain, MEAN, "plain"), (findings.late, OTHER, "late twins")):
        mid = np.array([each.run.mid for each in runs])
        first = np.mean([each.run.chunks[0].first for each in runs])
        at = first + size * np.arange(mid.shape[1])
        axes.plot(at, mid.mean(axis=0), color=colour, label=f"{name}, mean of {len(runs)}")
        if len(runs) > 1:
            error = mid.std(axis=0, ddof=1) / len(runs) ** 0.5
            axes.fill_between(at, mid.mean(axis=0) - error, mid.mean(axis=0) + error, color=colour, alpha=0.2)
    _label(axes, "position in the context, tokens (band: ± 1 standard error)", f"mid-pressure ({findings.mode})")


def _energy(axes: Axes, findings: Estimates) -> None:
    at = [(each.i - _first(findings, each.run)) / findings.plan.spec.chunk_size for each in findings.boundaries]
    effect = [each.difference("text", "neutral") for each in findings.boundaries]
    axes.scatter(at, effect, s=14, color=RUNS, label="boundaries of all runs")
    axes.axhline(0, color=ZERO, linewidth=0.8)
    if findings.energy is not None:
        found = findings.energy.text_minus_neutral
        axes.axhline(found.mean, color=MEAN, label=f"mean {found.mean:+.4f}")
        if found.interval is not None:
            axes.axhspan(*found.interval, color=MEAN, alpha=0.2, label="95 % interval")
    _label(axes, "measured chunk", "P_mid: text − neutral")


def _first(findings: Estimates, run: int) -> int:
    """Return the token index at which the first measured chunk of a run begins."""
    return findings.plain[run - 1].run.chunks[0].first


def _curves(axes: Axes, curves: Sequence[Sequence[float]]) -> None:
    for number, curve in enumerate(curves):
        axes.plot(curve, color=RUNS, linewidth=0.7, alpha=0.7, label="runs" if number == 0 else None)
    axes.plot(np.mean(curves, axis=0), color=MEAN, linewidth=1.8, label=f"mean of {len(curves)}")


def _label(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.legend(fontsize=8, framealpha=0.85, edgecolor="none")
