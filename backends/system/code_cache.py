"""Cache of compiled libraries in the user's cache directory. Only complete files that this user wrote are loaded.

A library's file name ends with the hash of its content. A damaged file does not match its name; a file that another
user could have written is not read. Both are removed, and compiled again.
"""

from __future__ import annotations

import hashlib
import os
import stat
from contextlib import suppress
from pathlib import Path

OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


def is_private(folder: Path) -> bool:
    """Create a folder that only this user can write to, and return True; return False if another user owns it.

    Raises:
        OSError: the folder cannot be created.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    if found.st_uid != os.geteuid():
        return False
    if found.st_mode & OTHERS_MAY_WRITE:
        folder.chmod(stat.S_IMODE(found.st_mode) & ~OTHERS_MAY_WRITE)
    return True


def find(folder: Path, name: str) -> Path | None:
    """Return the library with this name if it is sound; unsound files are removed."""
    for path in sorted(folder.glob(f"{name}-*.so")):
        if _is_sound(path, name):
            return path
        with suppress(OSError):
            path.unlink()
    return None


def store(made: Path, folder: Path, name: str) -> Path:
    """Move a library into the folder atomically: after a crash it is complete or absent.

    Raises:
        OSError: the library cannot be moved.
    """
    made.chmod(0o700)
    _sync(made)
    path = folder / f"{name}-{_digest(made.read_bytes())}.so"
    made.replace(path)
    _sync(folder)
    return path


def _is_sound(path: Path, name: str) -> bool:
    """Return whether only this user could write the file, and its content matches the hash in its name."""
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
    """Flush a file's content, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
