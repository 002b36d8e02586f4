"""Draw the figures of docs/calibration.md from the known-answer benchmark. Needs the extra `report`.

python -m benchmarks.half_life --json build/half-life.json
PYTHONPATH=. python docs/images/draw_calibration.py build/half-life.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from moe_watch.routing.half_life.fit import fit_half_life, in_words
from tests.routing.planted import CHUNKS, Planted, cliff, constant, exponential, linear, plant

FOLDER = Path(__file__).parent
OURS, BLOCKS, REFERENCE, PLANTED = "#1f77b4", "#8fb8de", "#d2691e", "#555555"
EXAMPLES = (
    exponential(0.6, 0.1, 12.0),
    linear(0.6, -0.01),
    cliff(0.6, 0.25),
    exponential(0.5, 0.3, 8.0),
    linear(0.6, -0.003),
    constant(0.45),
)
EXAMPLE_PHI = 0.3
TITLE_WIDTH = 72
"""Characters of a title's line."""


def draw_examples(target: Path) -> None:
    """One noisy series of each kind: what was planted, and the fit with its band and its words."""
    figure, panels = plt.subplots(2, 3, figsize=(13, 6.4), sharex=True, layout="constrained")
    for axes, planted in zip(panels.flat, EXAMPLES, strict=True):
        _example(axes, planted)
    for axes in panels[1]:
        axes.set_xlabel("measured chunk")
    for axes in panels[:, 0]:
        axes.set_ylabel("mid-pressure")
    panels[0, 0].legend(frameon=False, fontsize=8)
    figure.savefig(target, dpi=110)


def _example(axes: Axes, planted: Planted) -> None:
    (series,) = plant(planted, EXAMPLE_PHI, range(4, 5))
    fit, t = fit_half_life(series.mid), np.linspace(0, CHUNKS - 1, 400)
    low, high = fit.band(t)
    axes.fill_between(t, low, high, color=OURS, alpha=0.2, lw=0, label="95 % band")
    axes.plot(range(CHUNKS), series.mid, ".", color="black", ms=4, label="chunks")
    style = "steps-post" if planted.shape == "cliff" else "default"
    axes.plot(range(CHUNKS), planted.curve(series.change), "--", drawstyle=style, color=PLANTED, lw=1, label="planted")
    axes.plot(t, fit.chosen.values(t), color=OURS, label="fit")
    if fit.half_life is not None and fit.interval is not None:
        axes.axvspan(fit.interval[0], min(fit.interval[1], CHUNKS), color=REFERENCE, alpha=0.25, lw=0)
        axes.axvline(fit.half_life, color=REFERENCE, lw=1)
    axes.axhline(fit.start / 2, color=PLANTED, lw=0.5)
    axes.set_ylim(0.05, 0.7)
    axes.set_title(f"planted: {planted.name}\n{fill(in_words(fit), TITLE_WIDTH)}", fontsize=8)


def draw_coverage(found: dict[str, list[dict[str, Any]]], target: Path) -> None:
    """How often the 95 % intervals hold the planted half-life, by case and noise."""
    cases = [each for each in found["cases"] if each["covered"] is not None]
    others = [each for each in found["other_noise"] if each["covered"] is not None]
    labels = [f"{each['name']}, φ {each['phi']:g}" for each in cases]
    labels += [f"{each['name']}; {each['noise']}" for each in others]
    rows = np.arange(len(labels))[::-1]
    figure, axes = plt.subplots(figsize=(10.5, 0.24 * len(labels) + 1.2), layout="constrained")
    axes.axvspan(0.9, 1.0, color=OURS, alpha=0.08, lw=0)
    axes.axvline(0.95, color=PLANTED, lw=0.8, ls=":")
    blocks = [each["blocks_covered"] for each in cases]
    axes.plot(blocks, rows[: len(cases)], "o", color=BLOCKS, ms=5, label="moving blocks")
    axes.plot([each["covered"] for each in cases + others], rows, "o", color=OURS, ms=6, label="posterior")
    axes.set_yticks(rows, labels, fontsize=8)
    axes.set_ylim(-1, len(labels))
    axes.set_xlim(0.6, 1.005)
    axes.set_xlabel("share of the 95 % intervals that hold the planted half-life")
    axes.legend(frameon=False, fontsize=8, loc="lower left")
    figure.savefig(target, dpi=110)


if __name__ == "__main__":
    draw_examples(FOLDER / "calibration-fits.png")
    draw_coverage(json.loads(Path(sys.argv[1]).read_text()), FOLDER / "calibration-coverage.png")
