"""Output of a pruning: written under a temporary name beside its path, synced, and renamed.

A failure or an interruption leaves nothing behind, and an existing path is never replaced.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from moe_watch.routing.errors import UserError, reason_of

MARGIN = 1 << 20
"""Bytes that headers may need beyond the expected size."""


def check_output(path: Path, size: int) -> None:
    """Refuse an output that exists, whose folder is missing, or for which its disk has no space.

    Args:
        path: file or folder to be written.
        size: its expected size in bytes.

    Raises:
        UserError: it cannot be written.
    """
    try:
        exists = path.exists() or path.is_symlink()
    except OSError as error:
        raise UserError(f"{path} cannot be written ({reason_of(error)})", advice="give another path") from error
    if exists:
        raise _taken(path)
    if not path.parent.is_dir():
        raise UserError(f"{path.parent}: no such folder", advice="create it, or give another path")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"{path.parent} cannot be written to", advice="check its permissions, or give another path")
    free = shutil.disk_usage(path.parent).free
    if free < size + MARGIN:
        raise UserError(
            f"{path} needs {size / 1e9:,.3f} GB, and {free / 1e9:,.3f} GB are free in {path.parent}",
            advice="free space, or give a path on another disk",
        )


@contextmanager
def new_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename it at the end; remove it if an exception is raised.

    The caller writes and syncs a file or a folder there.

    Raises:
        UserError: writing failed, or another process has created the path meanwhile.
    """
    temporary = path.with_name(f".moe-watch-{secrets.token_hex(6)}.part")
    try:
        yield temporary
        if path.exists() or path.is_symlink():
            raise _taken(path)
        temporary.rename(path)
        sync(path.parent)
    except OSError as error:
        _remove(temporary)
        advice = "free space, or give a path on another disk" if error.errno == errno.ENOSPC else "give another path"
        raise UserError(f"{path} cannot be written ({reason_of(error)})", advice=advice) from error
    except BaseException:
        _remove(temporary)
        raise


def sync(path: Path) -> None:
    """Write a file or the entries of a folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _taken(path: Path) -> UserError:
    return UserError(f"{path} exists already", advice="give another path, or remove it")


def _remove(path: Path) -> None:
    with suppress(OSError):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
