"""Everything that reads sessions, applied to one file."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from msgspec import to_builtins

from moe_watch.routing.errors import UserError
from moe_watch.routing.events import State, to_json
from moe_watch.routing.summary import Summary
from moe_watch.sessions.export.exporter import ExportPlan, export_session
from moe_watch.sessions.reading.reader import read_session
from moe_watch.sessions.replaying.source import ReplaySource
from moe_watch.sessions.source import END, HOME, STEP, Jump
from moe_watch.sessions.verifying.file import verify
from moe_watch.sessions.verifying.salvage import salvage
from moe_watch.tui.state.run import RunView

SECONDS = 20.0
JUMPS = (END, Jump("token", 3), STEP, Jump("chunk", 1), HOME, Jump("time", 0.1), Jump("mark", 0), END)


class TooLongError(Exception):
    """A file took longer than any may."""


def exercise(path: Path, folder: Path) -> str:
    """Have everything read a file; returns how the reader ended: `read`, `torn` or `refused`.

    Raises:
        Exception: what must not be.
    """
    for read in (_play, verify):
        with suppress(UserError):
            read(path)
    _save(path, folder / "copy.moe.jsonl")
    with suppress(UserError):
        export_session(path, ExportPlan("csv", folder / "export", None, True))
    return _read(path)


def _read(path: Path) -> str:
    try:
        with closing(read_session(path)) as reader:
            for event in reader:
                to_json(event)
            return "torn" if reader.torn else "read"
    except UserError as error:
        if "\n" in str(error):
            raise AssertionError(f"more than one line: {error}") from error
        return "refused"


def _play(path: Path) -> None:
    """To the end, then here and there, as a screen does."""
    source, view, summary = ReplaySource(path, speed=0), RunView(), Summary()
    with closing(source):
        source.start()
        for jump in (None, *JUMPS):
            if jump is not None:
                source.seek(jump)
            for item in _played(source):
                view.feed(item)
                summary.feed(item)
        json.dumps(to_builtins(summary.result()), allow_nan=False)


def _played(source: ReplaySource) -> Iterator[Any]:
    while True:
        yield from source.drain()
        if source.ended:
            break
    if source.fatal_error is not None:
        yield State(state="error", i=0, t=0.0, message=str(source.fatal_error))


def _save(path: Path, copy: Path) -> None:
    """A copy of what can be read can be read, and saves all of itself."""
    copy.unlink(missing_ok=True)
    try:
        salvage(path, copy)
    except UserError:
        assert not copy.exists()
        return
    outcome = _read(copy)
    assert outcome == "read", f"a salvaged copy is {outcome}"


@contextmanager
def in_time(seconds: float = SECONDS) -> Iterator[None]:
    """Raises `TooLongError` in what takes longer."""

    def over(_number: int, _frame: FrameType | None) -> None:
        raise TooLongError(f"longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
