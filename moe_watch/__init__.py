"""moe-watch: watch a Mixture-of-Experts model think. Launcher, and sessions for notebooks. Imports nothing heavy.

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
"""Number of open files. Pipes, a recording and a model in one file need a dozen; imports fail below that."""


def open(path: str | os.PathLike[str]) -> Session:  # noqa: A001 - read as `moe_watch.open`
    """Open a recorded session as NumPy arrays.

    Args:
        path: a session file, plain or compressed, or its name in `moe-watch sessions`.

    Raises:
        UserError: the file cannot be read, or is no session. Its text is one line with advice.
    """
    from pathlib import Path

    from moe_watch.sessions.library.lookup import session_file
    from moe_watch.sessions.notebook import Session

    return Session(session_file(Path(path)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its status."""
    allowed = _allowed_files()
    if allowed < FEWEST_FILES:
        problem = f"only {allowed} open files are allowed, {FEWEST_FILES} are needed"
        sys.stderr.write(f"moe-watch: {problem}: run `ulimit -n 1024` before\n")
        sys.exit(2)
    try:
        from moe_watch.commands.app import run

        status = run(arguments)
    except KeyboardInterrupt:  # during the imports; commands handle it themselves
        status = 128 + signal.SIGINT
    sys.exit(status)


def _allowed_files() -> int:
    """Return the number of files that may be open, after raising the limit to `FEWEST_FILES` if possible."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= FEWEST_FILES:
        return FEWEST_FILES
    most = FEWEST_FILES if hard == resource.RLIM_INFINITY else min(FEWEST_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most
