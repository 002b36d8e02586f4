"""Reading of regular files up to a size limit, for files that a user names or a model folder contains.

Opening a FIFO waits for a writer without end, and a device such as `/dev/zero` has no end.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

LONGEST_TEXT = 100_000_000
"""Bytes of a JSON file. The largest index of a published model has some 10 MB."""


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading; symbolic links are followed.

    Raises:
        OSError: the file cannot be opened, or is not a regular file; `strerror` is the reason.
    """
    _require_regular(path, os.stat(path).st_mode)  # before it is opened: opening a device may have an effect
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        _require_regular(path, os.fstat(descriptor).st_mode)  # the file may have been replaced meanwhile
        return open(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: Path, limit: int = LONGEST_TEXT) -> bytes:
    """Read a whole file.

    Raises:
        OSError: the file cannot be read, is not a regular file, or has more than `limit` bytes.
    """
    with open_regular(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"larger than {limit:,} bytes", str(path))
    return content


def _require_regular(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, f"{_kind(mode)}, not a regular file", str(path))


def _kind(mode: int) -> str:
    kinds = {stat.S_ISFIFO: "a FIFO", stat.S_ISSOCK: "a socket"}
    return next((kind for is_one, kind in kinds.items() if is_one(mode)), "a device")
