"""Take the README's picture: the real dashboard on pocket, generating.

    PYTHONPATH=. python docs/images/take_picture.py build/dashboard.svg [SEED]

Turn the SVG into docs/images/dashboard.png with a browser that has the fonts Fira Code and DejaVu Sans Mono:

    chromium --headless --window-size=1849,1124 --screenshot=docs/images/dashboard.png build/dashboard.svg
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from moe_watch.backends.run_spec import RunSpec, SamplerOptions
from moe_watch.commands.watching.settings import POCKET_PROMPT
from moe_watch.sessions.live.settings import RunSettings
from moe_watch.sessions.live.source import LiveSource
from moe_watch.sessions.recording.options import RecordingOptions
from moe_watch.tui.app import MoeWatchApp

SIZE = (150, 44)
GO_ON_AT, TAKE_AT = 26, 30
"""Chunks."""


async def main(output: Path, seed: int) -> None:
    """Watch pocket, say "go on" in between, and save the screen as SVG."""
    settings = RunSettings(
        spec=RunSpec(prompt=POCKET_PROMPT, seed=seed, rate=30, sampler=SamplerOptions(stop="never")),
        recording=RecordingOptions(output=output.with_suffix(".moe.jsonl"), force=True),
    )
    app = MoeWatchApp(LiveSource(settings), clock=time.monotonic)
    async with app.run_test(size=SIZE) as pilot:
        await reached(app, GO_ON_AT)
        await pilot.press("g")
        await reached(app, TAKE_AT)
        output.write_text(app.export_screenshot(title="moe-watch"))


async def reached(app: MoeWatchApp, chunks: int) -> None:
    """Wait until so many chunks were generated."""
    while app.view.chunks < chunks:
        await asyncio.sleep(0.05)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 7))
