"""Dashboard of a source, and the messages after it closes."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from moe_watch.commands.output import complain, say
from moe_watch.commands.watching.exit_notice import exit_notice
from moe_watch.routing.errors import UserError

if TYPE_CHECKING:
    from moe_watch.sessions.experts.importance import ImportanceFile
    from moe_watch.sessions.live.source import LiveSource
    from moe_watch.sessions.replaying.source import ReplaySource

PUT_OFF_SECONDS = 0.1
LEAVING_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


def require_terminal(*, advice: str) -> None:
    """Check that there is a terminal for the dashboard.

    Raises:
        UserError: input or output is no terminal, or the terminal cannot draw, or is too small.
    """
    from moe_watch.tui.widgets.bars.too_small import LEAST_HEIGHT, LEAST_WIDTH

    for stream, name in ((sys.stdout, "output"), (sys.stdin, "input"), (sys.stderr, "error")):
        if not stream.isatty():
            raise UserError(f"standard {name} is not a terminal", advice=advice)
    if os.environ.get("TERM") == "dumb":
        raise UserError("this terminal cannot draw (TERM is dumb)", advice=advice)
    columns, rows = os.get_terminal_size(sys.stdout.fileno())
    if columns < LEAST_WIDTH or rows < LEAST_HEIGHT:
        raise UserError(
            f"the terminal is {columns}×{rows}, the dashboard needs {LEAST_WIDTH}×{LEAST_HEIGHT}",
            advice=f"make it larger, or {advice}",
        )


def show(source: LiveSource | ReplaySource, *, importance: Sequence[tuple[str, ImportanceFile]] = ()) -> None:
    """Run the dashboard until the user quits, then print the path of the recording.

    Args:
        source: of the events.
        importance: profiles and ablations of the model, with their names; empty for the stored ones.

    Raises:
        UserError: the run could not begin, or the file could not be read.
    """
    from moe_watch.sessions.source import Recordable
    from moe_watch.tui.app import MoeWatchApp

    with _signals_put_off():
        try:
            source.start()
            MoeWatchApp(source, clock=time.monotonic, importance=importance, closing=exit_notice).run()
        finally:
            _ignore_signals()
            source.close()
    if source.fatal_error is not None:
        raise source.fatal_error
    if not isinstance(source, Recordable):
        return
    recording = source.recording
    if recording.problem:
        complain(recording.problem)
    if recording.mode == "recording" or (recording.mode == "off" and recording.path):
        say(f"recorded to {recording.path}")
        say(f"replay it with: {replay_command(Path(recording.path))}")


def replay_command(recorded: Path) -> str:
    """Return the shell command that replays a recording."""
    from moe_watch.sessions.paths import sessions_directory, stem_of

    is_listed = recorded.parent == sessions_directory()
    return shlex.join([_program(), "replay", stem_of(recorded) if is_listed else str(recorded)])


def _program() -> str:
    """Return the name or path of this program. `make watch` installs it outside of the PATH."""
    beside = Path(sys.executable).with_name("moe-watch")
    return str(beside) if shutil.which("moe-watch") is None and beside.exists() else "moe-watch"


@contextmanager
def _signals_put_off() -> Iterator[None]:
    """Repeat a signal to quit until the dashboard handles it, as only that restores the terminal."""

    def again(number: int, _frame: FrameType | None) -> None:
        timer = threading.Timer(PUT_OFF_SECONDS, os.kill, (os.getpid(), number))
        timer.daemon = True
        timer.start()

    before = {number: signal.signal(number, again) for number in LEAVING_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ignore_signals() -> None:
    """Ignore further signals to quit.

    For a closed terminal both shell and system send one, and the second one must not interrupt the clean exit.
    """
    for number in LEAVING_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
