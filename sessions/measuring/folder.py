"""Folder of a measurement: its lock, its plan, and writes into it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from moe_watch.routing.errors import UserError, system_error
from moe_watch.sessions import paths
from moe_watch.sessions.measuring.plan import PLAN_FILE, RUN_PREFIXES, Plan, differences, read_plan

LOCK_FILE = ".lock"


@contextmanager
def claimed(folder: Path, plan: Plan) -> Iterator[None]:
    """Create and lock the folder of a measurement, with its plan in it; a context manager.

    Raises:
        UserError: it holds another measurement or other files, cannot be written to, or is in use.
    """
    with creating(folder):
        paths.make_private(folder)
        lock = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _lock(lock, folder)
        _match(folder, plan)
        yield
    finally:
        os.close(lock)


def write(path: Path, content: bytes) -> None:
    """Write a file atomically: an error leaves the existing file unchanged.

    Raises:
        UserError: it cannot be written.
    """
    with creating(path):
        paths.replace_file(path, content)


def _lock(lock: int, folder: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise UserError(f"{folder}: another measurement is writing there", advice="wait for it to end") from error


def _match(folder: Path, plan: Plan) -> None:
    kept = read_plan(folder)
    if kept is None:
        if visible := sorted(each.name for each in folder.iterdir() if not each.name.startswith(".")):
            raise UserError(f"{folder}: holds other files ({visible[0]})", advice="give a new folder as --out")
        write(folder / PLAN_FILE, plan.to_json())
    elif names := differences(kept, plan):
        if _has_runs(folder):
            raise UserError(
                f"{folder}: holds a measurement with other settings ({', '.join(names)})",
                advice="repeat its options to continue it, or give another --out",
            )
        write(folder / PLAN_FILE, plan.to_json())


def _has_runs(folder: Path) -> bool:
    """Return whether a run was begun; a measurement that was refused before has left only its plan."""
    return any(each.name.startswith(tuple(RUN_PREFIXES.values())) for each in folder.iterdir())


@contextmanager
def creating(path: Path, option: str = "--out") -> Iterator[None]:
    """Turn an `OSError` while a file or folder is written into a `UserError`; a context manager.

    Args:
        path: the file or folder.
        option: the option that chooses another one.
    """
    try:
        yield
    except OSError as error:
        advice = f"choose another place with {option}"
        raise system_error(path, error, failed="cannot be written", advice=advice) from error
