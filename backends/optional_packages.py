"""Install commands for moe-watch's optional extras. Imports nothing heavy."""

from __future__ import annotations

import importlib.util
import shlex
import sys


def install_command(extra: str) -> str:
    """Return the command that installs one of moe-watch's extras into the running environment.

    It names the environment's Python: a bare `pip` may belong to another environment, and environments of uv have none.
    """
    python = shlex.quote(sys.executable)
    installer = f"{python} -m pip install" if importlib.util.find_spec("pip") else f"uv pip install --python {python}"
    return f'{installer} "moe-watch[{extra}]"'
