"""How what moe-watch can do without is installed beside it. Imports nothing heavy."""

from __future__ import annotations

import importlib.util
import shlex
import sys


def install_command(extra: str) -> str:
    """The command that installs one of moe-watch's extras into the environment that is running.

    It names that environment's Python: a bare `pip` may well belong to another one, and those that uv makes have none.
    """
    python = shlex.quote(sys.executable)
    installer = f"{python} -m pip install" if importlib.util.find_spec("pip") else f"uv pip install --python {python}"
    return f'{installer} "moe-watch[{extra}]"'
