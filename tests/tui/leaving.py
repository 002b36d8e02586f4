"""The dashboard on a live run that nothing but its end can stop, as a program: `python -m tests.tui.leaving FOLDER`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from sessions.live import LiveSource
from sessions.run_settings import RunSettings
from tests.sessions.kit import EndlessWorker, Stage
from tui.app import MoeWatchApp

LEFT = "left the dashboard"


def main(folder: Path) -> None:
    """Watch until told to leave; then say so, on the screen and in a file, for where there is no screen any more."""
    source = LiveSource(RunSettings(prompt="def", chunk_size=4), Stage(folder, EndlessWorker).around)
    MoeWatchApp(source, clock=time.monotonic).run()
    (folder / "left").write_text(LEFT)
    sys.stdout.write(LEFT)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
