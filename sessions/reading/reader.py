"""Reader of a session file, one line at a time.

Session files are untrusted: reading any file gives events or raises `UserError`, in the memory of one line.
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
from moe_watch.sessions.reading.line_grammar import TOKEN_HEAD, event_name
from moe_watch.sessions.reading.line_reader import Line, Lines, LineTooLongError
from moe_watch.sessions.reading.repeated_keys import repeated_key
from moe_watch.sessions.reading.store import Store, open_whole
from moe_watch.sessions.reading.validation import MAX_INTEGER, EventChecker, ShapeError, check_header
from moe_watch.sessions.reading.versions import is_newer, refusal

DAMAGED = "the file is damaged; `moe-watch verify --salvage` copies its readable part to a new file"
NOT_A_SESSION = "this is not a moe-watch session"
MOST_BLANK_LINES = 10_000
"""Empty lines in a row that are skipped. moe-watch writes none, and an endless file could consist of them."""

_EVENT_NAMES = frozenset(kind.__struct_config__.tag for kind in get_args(Event))
_NOT_JSON_NUMBER = re.compile(rb"[:\[,]\s*-?(NaN|Infinity)\b")
_MALFORMED, _WHAT_AND_WHERE = re.compile(r"JSON is malformed: (.+) \((byte \d+)\)"), r"\1 at \2"
"""Pattern of msgspec's message, and its replacement."""


class _Version(msgspec.Struct):
    event: str
    schema: int = 0
    schema_minor: int = 0


@dataclass(frozen=True, slots=True)
class Examined:
    """One line of a file, with its event or its problem."""

    line: int
    """1-based."""
    offset: int
    """Offset of the line's first byte."""
    event: Event | Unknown | None
    """None if there is a problem."""
    problem: str = ""
    """Reason why the line is no event, in a few words."""
    torn: bool = False
    """The line is the last one and is cut off, as after a power cut."""
    content: bytes = b""
    """The unchanged line without its newline; empty if the line exceeds the limit."""


class SessionReader:
    """Reader of the events of one file, the header first.

    Args:
        source: the file, or a store of its bytes. `close` closes it.

    Raises:
        UserError: at once if the header cannot be read, later at the first line that is no event.
    """

    def __init__(self, source: Path | Store) -> None:
        self._store = open_whole(source) if isinstance(source, Path) else source
        self.torn = ""
        """Warning for the user, set at the end if the last line is cut off, as after a power cut."""
        self._lines = Lines(self._store)
        try:
            self.header_line = self._read_header_line()
            """Line of the header, with fields of newer versions, without newline and byte order mark."""
            self.header = self._parse_header(self.header_line)
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
        """All lines are read and no more will come."""
        return bool(self.torn) or self._lines.at_end

    def poll(self, *, skim: bool = False) -> Event | Unknown | None:
        """Return the next event; None at the end, in a growing file also if the next line is not written yet.

        Args:
            skim: skip the check for duplicate experts in a layer, which takes a quarter of the time.

        Raises:
            UserError: the next line is no event, or cannot be read.
        """
        if self.torn:
            return None
        try:
            line = self._next_line()
            if line is None:
                return None
            if self._store.follows_gap(line.offset):
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
        """Yield every line after the header, with its event or its problem. Empty lines are skipped.

        Raises:
            UserError: the rest of the file cannot be read.
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
        """Seek to a line and forget all lines read before.

        Args:
            line: number of a keyframe's line, or of the line after the header.
            offset: offset of its first byte.
        """
        self._lines.go_to(line, offset)
        self._checker = EventChecker(self.header)
        self.torn = ""

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        self._store.close()

    def _next_line(self) -> Line | None:
        """Return the next line that is not empty."""
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

    def _read_header_line(self) -> bytes:
        try:
            line = self._next_line()
        except LineTooLongError as error:
            raise self._refusal(str(error), NOT_A_SESSION) from error
        if line is None:
            raise UserError(f"{self._store.name}: the file is empty", advice=NOT_A_SESSION)
        return line.content.removeprefix(BOM_UTF8)  # Windows editors write one

    def _parse_header(self, line: bytes) -> Header:
        try:
            self._check_version(line)
            header = _parse(line)
            if not isinstance(header, Header):
                raise ShapeError("the first event is not 'session'")
            check_header(header)
            _check_keys(line, header)
        except ShapeError as error:
            raise self._refusal(f"no session header, {error}", NOT_A_SESSION) from error
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
            raise ShapeError(f"schema_minor must be from 0 to {MAX_INTEGER}")
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
        """Return the line as an event of a newer minor version, None if it is not one."""
        name = event_name(line) if is_newer(self.header.schema_minor) else None
        return None if name is None or name in _EVENT_NAMES else Unknown(name, line)

    def _is_torn(self, line: Line) -> bool:
        return self._lines.at_end and not _is_json(line.content)

    def _refusal(self, reason: str, advice: str) -> UserError:
        name, number = self._store.where(self.line, self._lines.last_offset)
        return UserError(f"{name}, line {number}: {reason}", advice=advice)


def read_session(path: Path) -> SessionReader:
    """Open a session file; events are read one at a time.

    Raises:
        UserError: the file cannot be read, or is not a session.
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
        raise ShapeError(f"key {key[:40]!r} is repeated")


def _parse(line: bytes) -> Event:
    try:
        return from_json(line)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ShapeError(_json_fault(line, error)) from error


def _json_fault(line: bytes, error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, msgspec.ValidationError):
        return f"not an event: {error}"
    if found := _NOT_JSON_NUMBER.search(line):
        return f"not JSON ({found[1].decode()} is not a JSON number)"
    return f"not JSON ({_MALFORMED.sub(_WHAT_AND_WHERE, str(error))})"


def _is_json(line: bytes) -> bool:
    try:
        msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True
