"""Compiled libraries in the user's cache, so that only code is loaded that this user's moe-watch put there, and whole.

A library's name ends with the hash of its content. A damaged one does not match its name; one that another user could
have written is not looked at. Both are removed, and compiled again.
"""

from __future__ import annotations

import hashlib
import os
import stat
from contextlib import suppress
from pathlib import Path

OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


def is_private(folder: Path) -> bool:
    """Make sure of a folder that only this user can write to; False if it is another user's.

    Raises:
        OSError: it cannot be made.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    if found.st_uid != os.geteuid():
        return False
    if found.st_mode & OTHERS_MAY_WRITE:
        folder.chmod(stat.S_IMODE(found.st_mode) & ~OTHERS_MAY_WRITE)
    return True


def find(folder: Path, name: str) -> Path | None:
    """Return the library of that name, if it is sound; those that are not are removed."""
    for path in sorted(folder.glob(f"{name}-*.so")):
        if _is_sound(path, name):
            return path
        with suppress(OSError):
            path.unlink()
    return None


def keep(made: Path, folder: Path, name: str) -> Path:
    """Move a library into the folder, so that a crash leaves all of it there or nothing.

    Raises:
        OSError: it cannot be moved there.
    """
    made.chmod(0o700)
    _sync(made)
    path = folder / f"{name}-{_digest(made.read_bytes())}.so"
    made.replace(path)
    _sync(folder)
    return path


def _is_sound(path: Path, name: str) -> bool:
    """It is a file of this user's that nobody else could write to, and its content is the one that it is named for."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    with open(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        is_ours = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()
        if not is_ours or found.st_mode & OTHERS_MAY_WRITE:
            return False
        return path.name == f"{name}-{_digest(file.read())}.so"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def _sync(path: Path) -> None:
    """Have a file's content, or a folder's entries, on the disk before anything else happens."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
