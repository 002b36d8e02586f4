"""The sessions in a folder: what each is, how it ended, how its pressure fell. One unreadable file hides no other.

A file is scanned once, from beginning to end, and what was found is kept in a cache until the file changes. Chunks are
taken as recorded; only tokens' number and place are looked at. `moe_watch.sessions.reading.reader` is who checks every
line.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from moe_watch.routing.errors import UserError, system_error
from moe_watch.routing.events import SCHEMA_MINOR, Chunk, Event, Header, Keyframe, State, Token, from_json
from moe_watch.routing.half_life.fit import in_words
from moe_watch.routing.half_life.series import MidSeries
from moe_watch.routing.pressure.missing_signals import lacking_signals
from moe_watch.sessions import paths
from moe_watch.sessions.library.cache import LibraryCache
from moe_watch.sessions.reading.lines import Line, Lines, LineTooLongError
from moe_watch.sessions.reading.reader import SessionReader, read_session
from moe_watch.sessions.reading.store import open_whole

SUFFIXES = (paths.SUFFIX, paths.SUFFIX + paths.COMPRESSED)
PREVIEW_CHARACTERS = 2_000
PREVIEW_TOKENS = 2_000

Condition = Literal["whole", "failed", "unfinished", "torn", "unreadable"]
"""Ended and said so; ended by an error and said so; without an end, so still recording or killed; cut off in a line, as
by a power cut; not a session, or damaged."""


class HalfLife(msgspec.Struct, frozen=True, kw_only=True):
    """How mid-pressure fell, by the recorded chunks."""

    verdict: str | None = None
    """None where nothing can be fitted."""
    half_life: float | None = None
    """Chunks."""
    words: str
    """The verdict, or why there is none, as one line."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a scan found in a session file."""

    condition: Condition
    problem: str = ""
    """What is wrong with the file, as one line."""
    model: str
    quantization: str | None
    backend: str
    created: str
    """UTC, ISO 8601."""
    layers: list[int]
    """The model's own index of each MoE layer."""
    experts: int
    experts_per_token: int | list[int]
    continues: str | None
    """Name of the run's first file, if this is a later one."""
    tokens: int = 0
    """In the file."""
    end: int = 0
    """Tokens of the run up to the end of the file."""
    chunks: int = 0
    ended: str | None = None
    """Why the run ended, or the message of its error."""
    half_life: HalfLife


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of the library."""

    path: Path
    size: int
    """Bytes."""
    modified: float
    """Seconds since the epoch."""
    facts: Facts | None
    """None if there is no header that can be read."""
    problem: str = ""
    """What is wrong with the file, as one line."""

    @property
    def name(self) -> str:
        """The file's name without its endings."""
        return paths.stem_of(self.path)

    @property
    def condition(self) -> Condition:
        """How the file is."""
        return "unreadable" if self.facts is None else self.facts.condition

    @property
    def run(self) -> str:
        """Name of the first file of its run: parts of one run have the same."""
        return (self.facts.continues if self.facts else None) or self.path.name


def files_of_run(entry: Entry, beside: Sequence[Entry]) -> list[Entry]:
    """All files of an entry's run in their order, the entry among them.

    Args:
        entry: one file.
        beside: the sessions in its folder.
    """
    others = [each for each in beside if each.path.name != entry.path.name and _of_one_run(each, entry)]
    return sorted([entry, *others], key=lambda each: (len(each.path.name), each.path.name))


def names_of(run: Sequence[Entry]) -> str:
    """The names of a run's files in a row."""
    return ", ".join(entry.name for entry in run)


def in_runs(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Files by their runs: the files of a run in their order, the runs in that of the first ones met."""
    named: dict[str, list[Entry]] = {}
    for entry in entries:
        named.setdefault(entry.run, []).append(entry)
    return [run for left in named.values() for run in _apart(left)]


def _apart(left: list[Entry]) -> list[list[Entry]]:
    """Files of runs of one name by their runs."""
    runs = []
    while left:
        runs.append(files_of_run(left[0], left))
        left = [entry for entry in left if entry not in runs[-1]]
    return runs


def _of_one_run(a: Entry, b: Entry) -> bool:
    """Whether one of two files in a folder goes on with the other, or both with a third.

    What was begun at another time is of an earlier run of that name.
    """
    begun = {entry.facts.created for entry in (a, b) if entry.facts is not None}
    return a.run == b.run and len(begun) < 2


@dataclass(frozen=True, slots=True)
class Preview:
    """A look into a session."""

    entry: Entry
    header: Header
    text: str
    """How it begins, prompt included; untrusted text."""
    cut: bool
    """There is more of it."""


def list_sessions(folder: Path | None = None, cache: LibraryCache | None = None) -> list[Entry]:
    """The sessions in a folder, newest first; none if there is no folder.

    Args:
        folder: the folder for recordings in the data directory by default.
        cache: where the findings of earlier scans are kept, the user's own by default.

    Raises:
        UserError: the folder cannot be read.
    """
    known = LibraryCache.of_user() if cache is None else cache
    found = [_entry(path, known) for path in _files(paths.sessions_directory() if folder is None else folder)]
    known.save()
    return sorted(found, key=lambda entry: (-entry.modified, entry.path.name))


def entry_of(path: Path, cache: LibraryCache | None = None) -> Entry:
    """One session file.

    Raises:
        UserError: there is no such file.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such session", advice="`moe-watch sessions` lists them")
    known = LibraryCache.of_user() if cache is None else cache
    entry = _entry(path, known)
    known.save()
    return entry


def find_session(name: str, folder: Path | None = None) -> Path:
    """Return the session file that `sessions` lists under a name, with or without the file's endings.

    Only files in the folder that are named as sessions count. A path, or a file elsewhere that has the same name, is
    never taken for one, since its caller may rename or delete what is returned.

    Raises:
        UserError: there is no such session, or more than one.
    """
    folder = paths.sessions_directory() if folder is None else folder
    listed = "`moe-watch sessions` lists them"
    if Path(name).name != name:
        advice = f"{listed}, and with --folder {Path(name).parent} those there"
        raise UserError(f"{name!r} is a path, not the name of a session", advice=advice)
    found = sorted(path for path in _files(folder) if name in (path.name, *_names_of(path)))
    if len(found) > 1:
        raise UserError(f"{name!r} is {len(found)} sessions", advice=f"say {' or '.join(path.name for path in found)}")
    if not found:
        raise UserError(f"{name}: no such session in {folder}", advice=listed)
    return found[0]


def _names_of(path: Path) -> tuple[str, str]:
    """A file's name without `.zst`, and without any of its endings."""
    return path.name.removesuffix(paths.COMPRESSED), paths.stem_of(path)


def preview(entry: Entry) -> Preview:
    """How a session begins. Reads no more than that.

    Raises:
        UserError: it cannot be read.
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
    """Whether it is called as sessions are; what is hidden is not finished yet."""
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
        return Entry(path, 0, 0.0, None, f"{path}: {error.strerror}")
    facts = cache.get(path, status, Facts)
    try:
        if facts is None:
            facts = scan(path)
            cache.put(path, status, facts)
    except UserError as error:
        return Entry(path, status.st_size, status.st_mtime, None, str(error))
    return Entry(path, status.st_size, status.st_mtime, facts, facts.problem)


# -- one file


def scan(path: Path) -> Facts:
    """What is in a session file, in one quick pass.

    Raises:
        UserError: it cannot be read, or has no header that can be.
    """
    store = open_whole(path)
    with closing(SessionReader(store)) as reader:
        found, lines = _Scan(reader.header), Lines(store)
        try:
            _skip_header(lines)
            while not found.problem and (line := lines.next()) is not None:
                found.take(line, last=lines.at_end)
        except LineTooLongError as error:
            found.break_off(lines.number, str(error))
    return found.facts()


def _skip_header(lines: Lines) -> None:
    while (line := lines.next()) is not None and not line.content.strip():
        pass


class _Scan:
    """What the lines of a file come to. Most are tokens, and are told by how they begin."""

    def __init__(self, header: Header) -> None:
        self.problem = ""
        self._header = header
        self._condition: Condition = "unfinished"
        self._series = MidSeries(header.pressure)
        self._tokens = self._chunks = self._end = 0
        self._last_token = b""
        """The line of the last token, if it was not read."""
        self._ended: str | None = None

    def take(self, line: Line, *, last: bool) -> None:
        """Take in a line; only the last one can be torn."""
        content = line.content
        if not content.strip() or (not last and self._is_passed_over(content)):
            return
        try:
            self._feed(from_json(content))
        except msgspec.ValidationError as error:
            if self._header.schema_minor <= SCHEMA_MINOR:
                self.break_off(line.number, f"no event: {error}")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            if last:
                self._condition, self.problem = "torn", f"line {line.number} is cut off"
            else:
                self.break_off(line.number, "not JSON")

    def break_off(self, line: int, reason: str) -> None:
        """Look no further: a line cannot be read."""
        self._condition, self.problem = "unreadable", f"line {line}: {reason}"

    def facts(self) -> Facts:
        """What was found so far."""
        model, continues = self._header.model, self._header.continues
        return Facts(
            condition=self._condition,
            problem=self.problem,
            model=model.name,
            quantization=model.quantization,
            backend=self._header.backend.name,
            created=self._header.created,
            layers=model.layers,
            experts=model.experts,
            experts_per_token=model.experts_per_token,
            continues=None if continues is None else continues.file,
            tokens=self._tokens,
            end=self._end_of_run(),
            chunks=self._chunks,
            ended=self._ended,
            half_life=self._half_life(),
        )

    def _is_passed_over(self, content: bytes) -> bool:
        """Whether nothing but the number of such lines matters."""
        if content.startswith(_TOKEN):
            self._tokens += 1
            self._last_token = content
            return True
        return content.startswith(_VITALS) or (self._tokens > 0 and content.startswith(_KEYFRAME))

    def _feed(self, event: Event) -> None:
        if isinstance(event, Token):
            self._tokens, self._end, self._last_token = self._tokens + 1, event.i + 1, b""
        elif isinstance(event, Chunk):
            self._chunks += 1
        elif isinstance(event, State) and event.state in ("finished", "error"):
            self._condition = "whole" if event.state == "finished" else "failed"
            self._ended = event.message or event.why or event.state
        elif isinstance(event, Keyframe) and not self._tokens:
            self._end = event.i
        if not (isinstance(event, Keyframe) and self._tokens):
            self._series.feed(event)

    def _end_of_run(self) -> int:
        with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return msgspec.json.decode(self._last_token, type=_Index).i + 1 if self._last_token else self._end
        return self._end

    def _half_life(self) -> HalfLife:
        fit = self._series.fit()
        if fit is None:
            lacking = "" if self._series.mid else lacking_signals(self._header, self._header.pressure)
            return HalfLife(words=lacking or self._series.unavailable)
        return HalfLife(verdict=fit.verdict, half_life=fit.half_life, words=in_words(fit))


class _Index(msgspec.Struct):
    i: int


_TOKEN, _VITALS, _KEYFRAME = (b'{"event":"%s",' % name for name in (b"token", b"vitals", b"keyframe"))
"""How lines begin that moe-watch wrote."""
