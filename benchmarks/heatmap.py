"""Processor time of one frame of the heatmap, every frame different, in a real terminal.

python -m benchmarks.heatmap
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import numpy as np

from moe_watch.routing.stats.timing_noise import in_words
from moe_watch.vitals.noise import NoiseMeter

SHAPES = ((6, 8), (32, 8), (48, 128), (94, 512))
PANELS = {(120, 40): (60, 19), (200, 60): (112, 36)}
"""Terminal sizes, and the size of the heatmap's panel in a dashboard of that size."""
FRAMES = 120
FPS = 12


def child(layers: int, experts: int, panel: tuple[int, int], report: Path) -> None:
    """Show `FRAMES` random frames at `FPS` in this terminal, and write the milliseconds per frame to `report`."""
    from textual.app import App, ComposeResult

    from moe_watch.tui.drawing.colours import HEATMAP_LEVELS
    from moe_watch.tui.widgets.panels.experts.heatmap import ExpertHeatmap

    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, HEATMAP_LEVELS, (layers, experts)) for _ in range(FRAMES)]
    newest = [np.stack([rng.permutation(experts)[:2] for _ in range(layers)]) for _ in range(FRAMES)]

    class HeatmapBench(App[None]):
        """App with one heatmap."""

        shown = 0
        began = 0.0
        spent = 0.0

        def compose(self) -> ComposeResult:
            heatmap = ExpertHeatmap()
            heatmap.styles.width, heatmap.styles.height = panel
            yield heatmap

        def on_mount(self) -> None:
            self.set_interval(1 / FPS, self.show)

        def show(self) -> None:
            if self.shown == FRAMES:
                self.spent = time.process_time() - self.began
                self.exit()
                return
            if self.shown == 0:
                self.began = time.process_time()
            at = self.shown
            self.query_one(ExpertHeatmap).set_levels(pictures[at].astype(np.int8), newest[at])
            self.shown += 1

    app = HeatmapBench()
    app.run()
    report.write_text(json.dumps(1000 * app.spent / FRAMES))


def measure(layers: int, experts: int, size: tuple[int, int], report: Path) -> float:
    """Measure the milliseconds of processor time per frame."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
    command = [
        sys.executable,
        "-m",
        "benchmarks.heatmap",
        "--report",
        str(report),
        "--child",
        str(layers),
        str(experts),
        *map(str, PANELS[size]),
    ]
    environment = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    reader = threading.Thread(target=_swallow, args=(master,), daemon=True)
    reader.start()
    process.wait(timeout=180)
    milliseconds: float = json.loads(report.read_text())
    return milliseconds


def _swallow(descriptor: int) -> None:
    try:
        while os.read(descriptor, 65536):
            pass
    except OSError:
        pass


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--child", nargs=4, type=int)
    parser.add_argument("--report", type=Path, default=Path("build/heatmap-frame.json"))
    arguments = parser.parse_args()
    if arguments.child:
        layers, experts, *panel = arguments.child
        child(layers, experts, (panel[0], panel[1]), arguments.report)
        return
    arguments.report.parent.mkdir(parents=True, exist_ok=True)
    meter = NoiseMeter()
    print(f"| layers × experts | terminal | panel | ms per frame | share of a core at {FPS} fps | at 30 fps |")
    print("|---|---|---|---|---|---|")
    for size in PANELS:
        for layers, experts in SHAPES:
            ms = measure(layers, experts, size, arguments.report)
            shares = f"{ms * FPS / 10:.1f} % | {ms * 30 / 10:.1f} %"
            place = f"{size[0]}×{size[1]} | {PANELS[size][0]}×{PANELS[size][1]}"
            print(f"| {layers} × {experts} | {place} | {ms:.2f} | {shares} |", flush=True)
    print(f"\nWhile measuring: {in_words(meter.noise())}.")


if __name__ == "__main__":
    main()
