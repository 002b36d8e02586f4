"""Where sessions lie and what their files are called."""

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
"""At the end of a file's name: what is written to it is compressed."""
MAX_NAME = 60
"""Characters of a model's name in a file name; file systems allow 255 bytes in all."""


def sessions_directory() -> Path:
    """The folder for recordings in the platform's data directory. It need not exist."""
    return platformdirs.user_data_path("moe-watch", appauthor=False) / "sessions"


def session_stem(model: str, day: date) -> str:
    """What a recording of this model on this day is called, before its number: `pocket-20261120`."""
    return f"{safe_name(model)}-{day:%Y%m%d}"


def safe_name(model: str) -> str:
    """A model's name with only `A-Z a-z 0-9 . _ -`, not hidden, and not too long for a file."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", model).strip("-.")[:MAX_NAME] or "model"


def exists_already(path: Path) -> UserError:
    """What to say about a file that is in the way."""
    return UserError(f"{path}: exists already", advice="choose another name, or replace it with --force")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What goes wrong with a file or folder that is to be written, as a `UserError`."""
    try:
        yield
    except FileExistsError as error:
        raise exists_already(path) from error
    except (OSError, ValueError) as error:
        advice = "choose another place with --output"
        raise system_error(path, error, failed="cannot be written", advice=advice) from error


def is_taken(path: Path) -> bool:
    """Whether there is a file of this name.

    Raises:
        UserError: there cannot be one.
    """
    with writing(path):
        try:
            path.stat()
        except FileNotFoundError:
            return False
        return True


def check_replaceable(path: Path, *, force: bool) -> None:
    """Refuse a name that is taken, unless by a regular file and `force` allows replacing it.

    Raises:
        UserError: the file is in the way, or is a device or FIFO that a file must not take the place of.
    """
    if not is_taken(path):
        return
    if path.is_dir() or not force:
        raise exists_already(path)
    if not path.is_file():
        raise UserError(f"{path}: cannot be written (not a regular file)", advice="choose another place with --output")


def make_private(folder: Path) -> None:
    """Create a folder, and those above it that are missing, for their owner alone."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    for each in reversed(missing):
        each.mkdir(mode=0o700, exist_ok=True)


def create(path: Path) -> int:
    """Create a file that only its owner may read, and its folders; returns a descriptor to write to.

    Raises:
        FileExistsError: there is one already.
        OSError: it cannot be created.
    """
    make_private(path.parent)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def replace_file(path: Path, content: bytes) -> None:
    """Write a whole file, for its owner alone, so that whoever reads it finds the old one or the new one.

    Raises:
        OSError: it cannot be written; the old one is still there.
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
    """Create `STEM-NUMBER.moe.jsonl` with the first number that is free; returns a descriptor and the path.

    Raises:
        OSError: it cannot be created.
    """
    number = first
    while True:
        path = folder / f"{stem}{between}{number}{ending}"
        try:
            return create(path), path
        except FileExistsError:
            number += 1


def stem_of(path: Path) -> str:
    """A session file's name without what says that it is one."""
    return path.name.removesuffix(COMPRESSED).removesuffix(SUFFIX) or path.name


def ending_of(path: Path) -> str:
    """What the names of files that go on with this one end in: `.moe.jsonl`, or `.moe.jsonl.zst`."""
    return SUFFIX + COMPRESSED if path.name.endswith(COMPRESSED) else SUFFIX


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk, where the system can do that."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
