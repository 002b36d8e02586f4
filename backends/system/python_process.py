"""Command line and environment of a child process that runs a module of this package."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def command(module: str, *arguments: object) -> list[str]:
    """Return the command line that runs `module`, given by its full name.

    `-P` keeps the current directory off the import path.
    """
    return [sys.executable, "-P", "-m", module, *map(str, arguments)]


def environment() -> dict[str, str]:
    """Return this process's environment, with this package on the import path."""
    search_path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return os.environ | {"PYTHONPATH": search_path}
