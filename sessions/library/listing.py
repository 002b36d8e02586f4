"""List of the sessions in a folder, with model, condition, length and half-life of each.

An unreadable file does not hide the others. A file is scanned once, and the result is cached until the file changes.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from moe_watch.routing.errors import UserError, reason_of, system_error
from moe_watch.routing.events import Header, Token
from moe_watch.sessions import paths
from moe_watch.sessions.library.cache import LibraryCache
from moe_watch.sessions.library.scanning import Condition, Facts, ScanResult, scan
from moe_watch.sessions.reading.reader import SessionReader, read_session

SUFFIXES = (paths.SUFFIX, paths.SUFFIX + paths.COMPRESSED)
PREVIEW_CHARACTERS = 2_000
PREVIEW_TOKENS = 2_000
"""Limits of a preview."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One session file in the list."""

    path: Path
    size: int
    """In bytes."""
    modified: float
    """Seconds since the epoch."""
    facts: Facts | None
    """None if the header cannot be read."""
    problem: str = ""
    """Fault of the file, one line; empty if there is none."""
    condition: Condition = "unreadable"

    @property
    def name(self) -> str:
        """The file's name without its endings."""
        return paths.stem_of(self.path)

    @property
    def run(self) -> str:
        """Name of the session's first file; the same for all files of a multi-part session."""
        return (self.facts.continues if self.facts else None) or self.path.name


def files_of_run(entry: Entry, beside: Sequence[Entry]) -> list[Entry]:
    """Return all files of an entry's session in their order, the entry included.

    Args:
        entry: one file.
        beside: the sessions in its folder.
    """
    others = [each for each in beside if each.path.name != entry.path.name and _of_one_run(each, entry)]
    return sorted([entry, *others], key=lambda each: (len(each.path.name), each.path.name))


def names_of(run: Sequence[Entry]) -> str:
    """Return the names of a session's files, separated by commas."""
    return ", ".join(entry.name for entry in run)


def in_runs(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Group files by session: each session's files in order, the sessions in the order of their first entry."""
    named: dict[str, list[Entry]] = {}
    for entry in entries:
        named.setdefault(entry.run, []).append(entry)
    return [run for left in named.values() for run in _apart(left)]


def _apart(left: list[Entry]) -> list[list[Entry]]:
    """Group files with the same session name by session."""
    runs = []
    while left:
        runs.append(files_of_run(left[0], left))
        left = [entry for entry in left if entry not in runs[-1]]
    return runs


def _of_one_run(a: Entry, b: Entry) -> bool:
    """Return whether two files in a folder belong to one session.

    A file with another time of creation belongs to an earlier session of the same name.
    """
    begun = {entry.facts.created for entry in (a, b) if entry.facts is not None}
    return a.run == b.run and len(begun) < 2


@dataclass(frozen=True, slots=True)
class Preview:
    """The beginning of a session."""

    entry: Entry
    header: Header
    text: str
    """First text of the run, prompt included; untrusted."""
    cut: bool
    """The run has more text."""


def list_sessions(folder: Path | None = None, cache: LibraryCache | None = None) -> list[Entry]:
    """Return the sessions in a folder, newest first; none if the folder does not exist.

    Args:
        folder: by default the folder for recordings in the data directory.
        cache: results of earlier scans, by default the user's cache.

    Raises:
        UserError: the folder cannot be read.
    """
    known = LibraryCache.of_user() if cache is None else cache
    found = [_entry(path, known) for path in _files(paths.sessions_directory() if folder is None else folder)]
    known.save()
    return sorted(found, key=lambda entry: (-entry.modified, entry.path.name))


def entry_of(path: Path, cache: LibraryCache | None = None) -> Entry:
    """Return the entry of one session file.

    Raises:
        UserError: the file does not exist.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such session", advice="`moe-watch sessions` lists them")
    known = LibraryCache.of_user() if cache is None else cache
    entry = _entry(path, known)
    known.save()
    return entry


def find_session(name: str, folder: Path | None = None, command: Sequence[str] = ("show", "{}")) -> Path:
    """Return the session file that `sessions` lists under a name, with or without the file's endings.

    Only files of the folder with a session's ending count. A path, or a file of the same name in another folder, is
    never returned, since the caller may rename or delete the result.

    Args:
        name: the name.
        folder: folder of the sessions; the data directory if None.
        command: words of the command after `moe-watch sessions`, with `{}` for the name; part of an advice.

    Raises:
        UserError: no session has this name, or more than one.
    """
    folder = paths.sessions_directory() if folder is None else folder
    listed = "`moe-watch sessions` lists them"
    if Path(name).name != name:
        path = Path(name)
        words = [path.name if word == "{}" else word for word in command]
        line = shlex.join(["moe-watch", "sessions", "--folder", str(path.parent), *words])
        advice = f"{listed}; for that folder, use `{line}`"
        raise UserError(f"{name!r} is a path, not the name of a session", advice=advice)
    found = sorted(path for path in _files(folder) if name in (path.name, *_names_of(path)))
    if len(found) > 1:
        names = " or ".join(path.name for path in found)
        raise UserError(f"{len(found)} sessions are named {name!r}", advice=f"use {names}")
    if not found:
        raise UserError(f"{name}: no such session in {folder}", advice=listed)
    return found[0]


def _names_of(path: Path) -> tuple[str, str]:
    """Return a file's name without `.zst`, and without both endings."""
    return path.name.removesuffix(paths.COMPRESSED), paths.stem_of(path)


def preview(entry: Entry) -> Preview:
    """Read the beginning of a session, and no more.

    Raises:
        UserError: the session cannot be read.
    """
    with closing(read_session(entry.path)) as reader:
        text = "".join(_first_texts(reader))
    return Preview(entry, reader.header, text[:PREVIEW_CHARACTERS], len(text) > PREVIEW_CHARACTERS)


def _first_texts(reader: SessionReader) -> Iterator[str]:
    tokens = characters = 0
    while tokens < PREVIEW_TOKENS and characters <= PREVIEW_CHARACTERS and (event := reader.poll()) is not None:
        if isinstance(event, Token):
            tokens, characters = tokens + 1, characters + len(event.text)
            yield event.text


def _files(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as found:
            names = [each.name for each in found if _is_session(each)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise system_error(folder, error, advice="name another folder") from error
    return [folder / name for name in names]


def _is_session(found: os.DirEntry[str]) -> bool:
    """Return whether the file has a session's ending. A hidden one is still being written."""
    if found.name.startswith(".") or not found.name.endswith(SUFFIXES):
        return False
    try:
        return found.is_file()
    except OSError:
        return False


def _entry(path: Path, cache: LibraryCache) -> Entry:
    try:
        status = path.stat()
    except OSError as error:
        return Entry(path, 0, 0.0, None, f"{path}: {reason_of(error)}")
    result = cache.get(path, status, ScanResult)
    try:
        if result is None:
            result = scan(path)
            cache.put(path, status, result)
    except UserError as error:
        return Entry(path, status.st_size, status.st_mtime, None, str(error))
    return Entry(path, status.st_size, status.st_mtime, result.facts, result.problem, result.condition)
