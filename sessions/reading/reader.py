"""Reading a session file, one line at a time.

Session files are untrusted: whatever stands in one, reading it ends in events or in a `UserError`, and takes no more
memory than a line.
"""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import msgspec

from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Event, Header, Unknown, from_json
from moe_watch.sessions.reading.decoding import token_decoder
from moe_watch.sessions.reading.lines import Line, Lines, LineTooLongError
from moe_watch.sessions.reading.repeated_keys import repeated_key
from moe_watch.sessions.reading.store import Store, open_whole
from moe_watch.sessions.reading.validation import MAX_INTEGER, EventChecker, ShapeError, check_header
from moe_watch.sessions.reading.versions import is_newer, refusal

DAMAGED = "the file is damaged there; what comes before that line can still be read if you cut it off"
NOT_A_SESSION = "this is not a moe-watch session"
TOKEN_HEAD = b'{"event":"token",'
"""What a token begins with that moe-watch wrote. Others are read as well, but not as fast."""
MOST_BLANK_LINES = 10_000
"""In a row. None of ours are, and a file may hold nothing else."""

_EVENT_NAMES = frozenset(kind.__struct_config__.tag for kind in get_args(Event))
_NOT_JSON_NUMBER = re.compile(rb"[:\[,]\s*-?(NaN|Infinity)\b")
_MALFORMED, _WHAT_AND_WHERE = re.compile(r"JSON is malformed: (.+) \((byte \d+)\)"), r"\1 at \2"
"""How msgspec says it, and how it is said here."""


class _Name(msgspec.Struct):
    event: str


class _Version(msgspec.Struct):
    event: str
    schema: int = 0
    schema_minor: int = 0


@dataclass(frozen=True, slots=True)
class Examined:
    """What one line of a file turned out to be."""

    line: int
    """1-based."""
    offset: int
    """Of its first byte."""
    event: Event | Unknown | None
    """None if there is a problem."""
    problem: str = ""
    """What is wrong with it, in a few words."""
    torn: bool = False
    """It is the last line and was cut off, as a power cut leaves it."""
    content: bytes = b""
    """The line as it stands, without its end; empty if it is longer than any may be."""


class SessionReader:
    """The events of one file, beginning with its header.

    Args:
        source: the file, or the bytes of one. They are closed with the reader.

    Raises:
        UserError: at once if there is no header that can be read, later at the first line that is no event.
    """

    def __init__(self, source: Path | Store) -> None:
        self._store = open_whole(source) if isinstance(source, Path) else source
        self.torn = ""
        """Set at the end if the last line was cut off, as a power cut leaves it: one line for the user."""
        self._lines = Lines(self._store)
        try:
            self.header = self._read_header()
        except BaseException:
            self.close()
            raise
        self._checker = EventChecker(self.header)
        self._decode_token = token_decoder(self.header)

    def __iter__(self) -> Iterator[Event | Unknown]:
        yield self.header
        while (event := self.poll()) is not None:
            yield event

    @property
    def line(self) -> int:
        """Number of the line read last, 1-based."""
        return self._lines.number

    @property
    def at_end(self) -> bool:
        """Everything was read, and nothing more will come."""
        return bool(self.torn) or self._lines.at_end

    def poll(self, *, skim: bool = False) -> Event | Unknown | None:
        """The next event; None if there is none, of a file that grows: if there is none yet.

        Args:
            skim: do not look for experts that stand twice in a row of a token, which takes a quarter of the time.

        Raises:
            UserError: the next line is no event, or cannot be read.
        """
        if self.torn:
            return None
        try:
            line = self._next_line()
            if line is None:
                return None
            if self._store.begins_anew(line.offset):
                self._checker = EventChecker(self.header)
            return self._decode(line.content, skim=skim)
        except ShapeError as error:
            if line is not None and self._is_torn(line):
                name, number = self._store.where(self.line, self._lines.last_offset)
                self.torn = f"{name}: the last line is cut off; read up to line {number - 1}"
                return None
            raise self._refusal(str(error), DAMAGED) from error
        except LineTooLongError as error:
            raise self._refusal(str(error), DAMAGED) from error

    def examine(self) -> Iterator[Examined]:
        """Every line after the header, whether it is an event or not. Empty lines are left out.

        Raises:
            UserError: the file cannot be read any further.
        """
        while True:
            offset = self._lines.offset
            try:
                line = self._next_line()
            except LineTooLongError as error:
                yield Examined(self.line, offset, None, str(error))
                continue
            if line is None:
                return
            yield self._examined(line)

    def go_to(self, line: int, offset: int) -> None:
        """Have the line of this number, which begins at this offset, read next, as if none came before it.

        It should hold a keyframe, or be the one after the header.
        """
        self._lines.go_to(line, offset)
        self._checker = EventChecker(self.header)
        self.torn = ""

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        self._store.close()

    def _next_line(self) -> Line | None:
        """The next line that is not empty."""
        for _ in range(MOST_BLANK_LINES):
            line = self._lines.next()
            if line is None or line.content.strip():
                return line
        raise self._refusal(f"{MOST_BLANK_LINES} empty lines in a row", DAMAGED)

    def _examined(self, line: Line) -> Examined:
        try:
            return Examined(line.number, line.offset, self._decode(line.content), content=line.content)
        except ShapeError as error:
            return Examined(line.number, line.offset, None, str(error), self._is_torn(line), line.content)

    def _read_header(self) -> Header:
        try:
            line = self._next_line()
            if line is None:
                raise UserError(f"{self._store.name}: the file is empty", advice=NOT_A_SESSION)
            content = line.content.removeprefix(BOM_UTF8)  # as editors on Windows put it there
            self._check_version(content)
            header = _parse(content)
            assert isinstance(header, Header)
            check_header(header)
            _check_keys(content, header)
        except ShapeError as error:
            raise self._refusal(f"no session header, {error}", NOT_A_SESSION) from error
        except LineTooLongError as error:
            raise self._refusal(str(error), NOT_A_SESSION) from error
        return header

    def _check_version(self, line: bytes) -> None:
        _check_encoding(line)
        try:
            version = msgspec.json.decode(line, type=_Version)
        except (msgspec.DecodeError, RecursionError) as error:
            raise ShapeError(_json_fault(line, error)) from error
        if version.event != "session":
            raise ShapeError(f"the first event is {version.event!r} instead of 'session'")
        if not 0 <= version.schema_minor <= MAX_INTEGER:
            raise ShapeError("a minor version that cannot be")
        if reason := refusal(version.schema):
            raise self._refusal(reason, "update moe-watch to read it") if version.schema > 0 else ShapeError(reason)

    def _decode(self, line: bytes, *, skim: bool = False) -> Event | Unknown:
        _check_encoding(line)
        if line.startswith(TOKEN_HEAD):
            with suppress(msgspec.DecodeError, RecursionError):
                token = self._decode_token(line)
                self._checker.check_decoded(token, skim=skim)
                _check_keys(line, token)
                return token
        event = self._newer(line) or _parse(line)
        self._checker.check(event)
        if not isinstance(event, Unknown):
            _check_keys(line, event)
        return event

    def _newer(self, line: bytes) -> Unknown | None:
        """The line as an event that only a newer minor version knows, if it is one."""
        if not is_newer(self.header.schema_minor):
            return None
        try:
            name = msgspec.json.decode(line, type=_Name).event
        except (msgspec.DecodeError, RecursionError):
            return None
        return None if name in _EVENT_NAMES else Unknown(name, line)

    def _is_torn(self, line: Line) -> bool:
        return self._lines.at_end and not _is_json(line.content)

    def _refusal(self, reason: str, advice: str) -> UserError:
        name, number = self._store.where(self.line, self._lines.last_offset)
        return UserError(f"{name}, line {number}: {reason}", advice=advice)


def read_session(path: Path) -> SessionReader:
    """The header of a session file and its events, in order, without reading the whole file.

    Raises:
        UserError: the file cannot be read, or holds no session.
    """
    return SessionReader(path)


def _check_encoding(line: bytes) -> None:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ShapeError(f"not UTF-8 at byte {error.start}") from error


def _check_keys(line: bytes, event: Event) -> None:
    try:
        key = repeated_key(line, event)
    except RecursionError as error:
        raise ShapeError("nested too deeply") from error
    if key is not None:
        raise ShapeError(f"{key[:40]!r} stands twice")


def _parse(line: bytes) -> Event:
    try:
        return from_json(line)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ShapeError(_json_fault(line, error)) from error


def _json_fault(line: bytes, error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, msgspec.ValidationError):
        return f"no event: {error}"
    if found := _NOT_JSON_NUMBER.search(line):
        return f"not JSON ({found[1].decode()} is no JSON number)"
    return f"not JSON ({_MALFORMED.sub(_WHAT_AND_WHERE, str(error))})"


def _is_json(line: bytes) -> bool:
    try:
        msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True
