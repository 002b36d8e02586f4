"""Paths and names of session files."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import date
from pathlib import Path

import platformdirs

from moe_watch.routing.errors import UserError, system_error

SUFFIX = ".moe.jsonl"
COMPRESSED = ".zst"
"""Ending of a compressed file."""
MAX_NAME = 60
"""Maximum length of a model's name in a file name; file systems allow 255 bytes in all."""


def sessions_directory() -> Path:
    """Return the folder for recordings in the platform's data directory. It may not exist."""
    return platformdirs.user_data_path("moe-watch", appauthor=False) / "sessions"


def importance_directory(fingerprint: str) -> Path:
    """Return the folder for profiles and ablations of one model, by its fingerprint. It may not exist."""
    return platformdirs.user_data_path("moe-watch", appauthor=False) / "experts" / safe_name(fingerprint)


def session_stem(model: str, day: date) -> str:
    """Return the name of a recording of this model on this day, without its number: `pocket-20261120`."""
    return f"{safe_name(model)}-{day:%Y%m%d}"


def safe_name(model: str) -> str:
    """Return a model's name with only `A-Z a-z 0-9 . _ -`, without a leading dot, and short enough for a file name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", model).strip("-.")[:MAX_NAME] or "model"


def exists_already(path: Path) -> UserError:
    """Return the error for an output file that exists."""
    return UserError(f"{path}: exists already", advice="choose another name, or replace it with --force")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Convert errors of writing a file or folder to `UserError`."""
    try:
        yield
    except FileExistsError as error:
        raise exists_already(path) from error
    except (OSError, ValueError) as error:
        advice = "choose another place with --output"
        raise system_error(path, error, failed="cannot be written", advice=advice) from error


def is_taken(path: Path) -> bool:
    """Return whether the file exists.

    Raises:
        UserError: the path is invalid.
    """
    with writing(path):
        try:
            path.stat()
        except FileNotFoundError:
            return False
        return True


def check_replaceable(path: Path, *, force: bool) -> None:
    """Refuse an output path that exists, unless it is a regular file and `force` is set.

    Raises:
        UserError: the file exists, or is a device or FIFO, which is never replaced.
    """
    if not is_taken(path):
        return
    if path.is_dir() or not force:
        raise exists_already(path)
    if not path.is_file():
        raise UserError(f"{path}: cannot be written (not a regular file)", advice="choose another place with --output")


def make_private(folder: Path) -> None:
    """Create a folder and its missing parents, for their owner alone."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    for each in reversed(missing):
        each.mkdir(mode=0o700, exist_ok=True)


def create(path: Path) -> int:
    """Create a file that only its owner can read, and its folders; return a descriptor to write to.

    Raises:
        FileExistsError: the file exists.
        OSError: the file cannot be created.
    """
    make_private(path.parent)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def replace_file(path: Path, content: bytes) -> None:
    """Replace a file atomically, for its owner alone: a reader gets the old content or the new.

    Raises:
        OSError: the file cannot be written; the old content remains.
    """
    make_private(path.parent)
    descriptor, beside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        os.replace(beside, path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise


def create_numbered(
    folder: Path, stem: str, first: int = 1, *, between: str = "-", ending: str = SUFFIX
) -> tuple[int, Path]:
    """Create `STEM-NUMBER.moe.jsonl` with the first free number; return a descriptor and the path.

    Raises:
        OSError: the file cannot be created.
    """
    number = first
    while True:
        path = folder / f"{stem}{between}{number}{ending}"
        try:
            return create(path), path
        except FileExistsError:
            number += 1


def stem_of(path: Path) -> str:
    """Return a session file's name without its endings."""
    return path.name.removesuffix(COMPRESSED).removesuffix(SUFFIX) or path.name


def ending_of(path: Path) -> str:
    """Return the ending of a file's continuation files: `.moe.jsonl`, or `.moe.jsonl.zst`."""
    return SUFFIX + COMPRESSED if path.name.endswith(COMPRESSED) else SUFFIX


def sync_folder(folder: Path) -> None:
    """Write a folder's entries to disk (fsync), if the system supports it."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
