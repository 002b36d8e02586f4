"""Lookup of session files by path or by name. Imports nothing heavy."""

from __future__ import annotations

import os
from pathlib import Path

from moe_watch.routing.errors import UserError


def session_file(named: Path) -> Path:
    """Return the file of a recorded session: a path, or a name as `moe-watch sessions` lists it.

    A path that does not exist is returned unchanged, so that reading it reports the error.

    Raises:
        UserError: it can only be a name, and there is no such session.
    """
    if os.path.exists(named) or named.name != str(named):
        return named

    from moe_watch.sessions.library.listing import find_session

    try:
        return find_session(named.name)
    except UserError as error:
        raise UserError(f"{error.what}, and no such file here", advice=error.advice) from error
