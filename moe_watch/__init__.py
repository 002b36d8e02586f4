"""moe-watch: watch a Mixture-of-Experts model think. The launcher, and sessions for notebooks; imports nothing heavy.

import moe_watch

session = moe_watch.open("run.moe.jsonl")
session.usage(phase="decode")  # shares [layers, experts] as a NumPy array
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moe_watch.sessions.notebook import Session

__all__ = ["main", "open"]

FEWEST_FILES = 32
"""Open files. A dozen are needed for pipes, a recording and a model of one file; imports fail below that."""


def open(path: str | os.PathLike[str]) -> Session:  # noqa: A001 - read as `moe_watch.open`
    """A recorded session as NumPy arrays.

    Args:
        path: a session file, plain or compressed, or its name in `moe-watch sessions`.

    Raises:
        UserError: the file cannot be read, or holds no session; one line that says what to do.
    """
    from pathlib import Path

    from moe_watch.sessions.library.lookup import session_file
    from moe_watch.sessions.notebook import Session

    return Session(session_file(Path(path)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave the process with its exit status."""
    allowed = _allowed_files()
    if allowed < FEWEST_FILES:
        problem = f"only {allowed} open files are allowed, {FEWEST_FILES} are needed"
        sys.stderr.write(f"moe-watch: {problem}: run `ulimit -n 1024` before\n")
        sys.exit(2)
    try:
        from moe_watch.commands.app import run

        status = run(arguments)
    except KeyboardInterrupt:  # while commands were being imported; later on they end by themselves
        status = 128 + signal.SIGINT
    sys.exit(status)


def _allowed_files() -> int:
    """Return how many files may be open, after asking for as many as are needed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= FEWEST_FILES:
        return FEWEST_FILES
    most = FEWEST_FILES if hard == resource.RLIM_INFINITY else min(FEWEST_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most
