"""Rename, delete and prune recorded sessions. No file is overwritten, and a multi-part session stays together."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from moe_watch.routing.errors import UserError, system_error
from moe_watch.sessions import paths
from moe_watch.sessions.library.listing import Entry, files_of_run, names_of

MAX_BYTES_OF_NAME = 200
"""File systems allow 255; the endings and the numbers of continuation files need some."""
RUNNING_SECONDS = 60.0
"""A session without an end, modified less than this many seconds ago, may still be recording."""

_UNITS = {"d": "days", "w": "weeks", "h": "hours"}
_BYTES = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def rename_session(path: Path, name: str, beside: Sequence[Entry]) -> Path:
    """Rename a session file within its folder; return the new path.

    Args:
        path: the file.
        name: the new name, with or without the file's endings.
        beside: the sessions in its folder.

    Raises:
        UserError: the name is invalid or taken, or the file is not a session or part of a multi-part session.
    """
    stem = _stem(name)
    found = next((entry for entry in beside if entry.path.name == path.name), None)
    if found is not None:
        _require_session(found)
    run = [] if found is None else files_of_run(found, beside)
    if len(run) > 1:
        raise UserError(f"{names_of(run)} are one session and refer to each other by name", advice="keep their names")
    target = path.with_name(stem + paths.ending_of(path))
    try:
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError as error:
        raise UserError(f"{target}: exists already", advice="choose another name") from error
    except (OSError, ValueError) as error:
        raise _failure(target, "cannot be created", error) from error
    return _move(path, target)


def require_whole_runs(doomed: Sequence[Entry], beside: Sequence[Entry]) -> None:
    """Refuse to delete some files of a multi-part session without the others.

    Args:
        doomed: the entries to delete.
        beside: the sessions in the folders of these.

    Raises:
        UserError: a file of a session is missing in `doomed`.
    """
    paths_of_doomed = {entry.path for entry in doomed}
    for entry in doomed:
        run = files_of_run(entry, [each for each in beside if each.path.parent == entry.path.parent])
        if any(each.path not in paths_of_doomed for each in run):
            raise UserError(
                f"{names_of(run)} are one session and can only be deleted together", advice="name all of them"
            )


def delete_session(entry: Entry) -> None:
    """Delete a session file.

    Raises:
        UserError: the file is not a session, or cannot be deleted.
    """
    _require_session(entry)
    try:
        entry.path.unlink()
    except OSError as error:
        raise _failure(entry.path, "cannot be deleted", error) from error


def _require_session(entry: Entry) -> None:
    """Refuse a file that has only the ending of a session: it may contain anything."""
    if entry.facts is None:
        raise UserError(f"{entry.path} is not a session", advice="if you do not need it, delete it yourself")


def to_prune(entries: Sequence[Entry], keep: str, now: float) -> list[Entry]:
    """Return the sessions to delete so that the newest remain. A multi-part session is kept or deleted as one.

    Files with a session's ending that are no sessions are never pruned, and do not count.

    Args:
        entries: all sessions.
        keep: limit: `20` sessions, `30d` (also `h`, `w`) of age, or `5GB` (also `KB`, `MB`, `TB`) of files.
        now: seconds since the epoch.

    Raises:
        UserError: `keep` is invalid.
    """
    runs: dict[str, list[Entry]] = {}
    sessions = (each for each in entries if each.facts is not None)
    for entry in sorted(sessions, key=lambda each: (-each.modified, each.path.name)):
        runs.setdefault(entry.run, []).append(entry)
    kept = _kept([*runs.values()], keep, now)
    return [entry for run in runs.values() if run not in kept and not _may_be_running(run, now) for entry in run]


def _kept(runs: list[list[Entry]], keep: str, now: float) -> list[list[Entry]]:
    """Return the runs that `keep` allows, newest first."""
    number, unit = _parsed(keep)
    if not unit:
        return runs[: int(number)]
    if unit in _UNITS:
        oldest = now - timedelta(**{_UNITS[unit]: number}).total_seconds()
        return [run for run in runs if run[0].modified >= oldest]
    return _that_fit(runs, number * _BYTES[unit])


def _that_fit(runs: list[list[Entry]], room: float) -> list[list[Entry]]:
    kept = []
    for run in runs:
        room -= sum(entry.size for entry in run)
        if room < 0:
            break
        kept.append(run)
    return kept


def _parsed(keep: str) -> tuple[float, str]:
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)\s*([hdw]|[KMGT]B)?", keep.strip())
    if found is None or ("." in found[1] and not found[2]):
        raise UserError(f"--keep is {keep!r}", advice="use a number of sessions, an age like 30d, or a size like 5GB")
    return float(found[1]), found[2] or ""


def _may_be_running(run: list[Entry], now: float) -> bool:
    return any(entry.condition in ("unfinished", "torn") and now - entry.modified < RUNNING_SECONDS for entry in run)


def _stem(name: str) -> str:
    """Return a new name without its endings."""
    stem = "" if {"/", "\\"} & set(name) else paths.stem_of(Path(name))
    if not stem or stem.startswith(".") or not stem.isprintable():
        raise UserError(f"{name!r} is not a valid session name", advice="use letters, digits, `-`, `_` and `.`")
    if len(stem.encode(errors="replace")) > MAX_BYTES_OF_NAME:
        raise UserError(
            f"the name of {len(stem)} characters is too long", advice=f"use at most {MAX_BYTES_OF_NAME} bytes"
        )
    return stem


def _move(path: Path, target: Path) -> Path:
    """Move a file onto the empty file that reserves its new name."""
    try:
        path.replace(target)
    except OSError as error:
        target.unlink(missing_ok=True)
        raise _failure(path, "cannot be renamed", error) from error
    paths.sync_folder(target.parent)
    return target


def _failure(path: Path, what: str, error: Exception) -> UserError:
    return system_error(path, error, failed=what, advice="check the permissions of the folder")
