"""The dashboard on a live run that nothing but its end can stop, as a program: `python -m tests.tui.leaving FOLDER`.

`--deaf` ignores the system's signal that the terminal was closed, as `nohup` does; on a busy machine it comes late.
`--slow` has a worker that is gone only once there is a file `go` in the folder.
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

from moe_watch.sessions.live.source import LiveSource
from moe_watch.tui import app
from moe_watch.tui.terminal import job_control
from tests.processes import wait_until
from tests.run_specs import run_settings
from tests.sessions.kit import EndlessWorker, Stage

LEFT = "left the dashboard"


def main(folder: Path, worker: type[EndlessWorker] = EndlessWorker) -> None:
    """Watch until asked to exit; then report it on the screen, and in a file for when the terminal is closed."""
    source = LiveSource(run_settings(prompt="def", chunk_size=4), Stage(folder, worker).around)
    app.MoeWatchApp(source, clock=time.monotonic).run()
    (folder / "left").write_text(LEFT)
    sys.stdout.write(LEFT)


def slow(folder: Path) -> type[EndlessWorker]:
    """Worker that takes long to end."""

    class Slow(EndlessWorker):
        def close(self) -> None:
            (folder / "closing").touch()
            wait_until((folder / "go").exists, "go")
            super().close()

    return Slow


if __name__ == "__main__":
    if "--deaf" in sys.argv:
        job_control.LEAVING_SIGNALS = ()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    place = Path(sys.argv[1])
    main(place, slow(place) if "--slow" in sys.argv else EndlessWorker)
