"""Reading a session file, one line at a time.

Session files are untrusted: whatever stands in one, reading it ends in events or in a `UserError`, and takes no more
memory than a line.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import get_args

import msgspec

from routing.errors import UserError
from routing.events import SCHEMA, SCHEMA_MINOR, Event, Header, Unknown, from_json
from sessions.shapes import EventChecker, ShapeError, check_header

MAX_LINE = 16 * 1024 * 1024
"""Bytes. A keyframe of 94 × 512 takes about 5 MB."""

DAMAGED = "the file is damaged there; what comes before that line can still be read if you cut it off"
NOT_A_SESSION = "this is not a moe-watch session"

_EVENT_NAMES = frozenset(kind.__struct_config__.tag for kind in get_args(Event))
_NOT_JSON_NUMBER = re.compile(rb"[:\[,]\s*-?(NaN|Infinity)\b")
_ZSTANDARD = b"\x28\xb5\x2f\xfd"


class _Name(msgspec.Struct):
    event: str


class _Version(msgspec.Struct):
    event: str
    schema: int = 0
    schema_minor: int = 0


class SessionReader:
    """The events of one file, beginning with its header. Can be gone through once.

    Raises:
        UserError: at once if there is no header that can be read, later at the first line that is no event.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.torn = ""
        """Set at the end if the last line was cut off, as a power cut leaves it: one line for the user."""
        self.line = 0
        """Number of the line read last, 1-based."""
        self._file = _open(path)
        try:
            self.header = self._read_header()
        except BaseException:
            self.close()
            raise
        self._checker = EventChecker(self.header)

    def __iter__(self) -> Iterator[Event | Unknown]:
        yield self.header
        for line in self._lines():
            try:
                event = self._decode(line)
            except ShapeError as error:
                if self._is_torn(line):
                    self.torn = f"{self.path}: the last line is cut off; read up to line {self.line - 1}"
                    return
                raise self._refusal(str(error), DAMAGED) from error
            yield event

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        self._file.close()

    def _lines(self) -> Iterator[bytes]:
        while line := self._file.readline(MAX_LINE + 1):
            self.line += 1
            if len(line) > MAX_LINE and not line.endswith(b"\n"):
                raise self._refusal(f"longer than {MAX_LINE >> 20} MB", NOT_A_SESSION if self.line == 1 else DAMAGED)
            if line.strip():
                yield line.rstrip(b"\r\n")

    def _read_header(self) -> Header:
        line = next(self._lines(), None)
        if line is None:
            raise UserError(f"{self.path}: the file is empty", advice=NOT_A_SESSION)
        if line.startswith(_ZSTANDARD):
            raise UserError(f"{self.path}: compressed with zstd", advice="unpack it first, with `zstd -d`")
        try:
            self._check_version(line)
            header = _parse(line)
            assert isinstance(header, Header)
            check_header(header)
        except ShapeError as error:
            raise self._refusal(f"no session header: {error}", NOT_A_SESSION) from error
        return header

    def _check_version(self, line: bytes) -> None:
        _check_encoding(line)
        try:
            version = msgspec.json.decode(line, type=_Version)
        except (msgspec.DecodeError, RecursionError) as error:
            raise ShapeError(_json_fault(line, error)) from error
        if version.event != "session":
            raise ShapeError(f"the first event is {version.event!r} instead of 'session'")
        if version.schema > SCHEMA:
            raise self._refusal(
                f"schema {version.schema}, and this moe-watch reads schema {SCHEMA}", "update moe-watch to read it"
            )
        if version.schema < 1:
            raise ShapeError(f"schema {version.schema} does not exist")

    def _decode(self, line: bytes) -> Event | Unknown:
        _check_encoding(line)
        event = self._newer(line) or _parse(line)
        self._checker.check(event)
        return event

    def _newer(self, line: bytes) -> Unknown | None:
        """The line as an event that only a newer minor version knows, if it is one."""
        if self.header.schema_minor <= SCHEMA_MINOR:
            return None
        try:
            name = msgspec.json.decode(line, type=_Name).event
        except (msgspec.DecodeError, RecursionError):
            return None
        return None if name in _EVENT_NAMES else Unknown(name, line)

    def _is_torn(self, line: bytes) -> bool:
        return not _is_json(line) and not self._file.peek(1)

    def _refusal(self, reason: str, advice: str) -> UserError:
        return UserError(f"{self.path}, line {self.line}: {reason}", advice=advice)


def read_session(path: Path) -> SessionReader:
    """The header of a session file and its events, in order, without reading the whole file.

    Raises:
        UserError: the file cannot be read, or holds no session.
    """
    return SessionReader(path)


def _open(path: Path) -> BufferedReader:
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise UserError(f"{path}: a folder, not a session file", advice="name a .moe.jsonl file in it")
        if not stat.S_ISREG(mode):
            raise UserError(f"{path}: not a regular file", advice="name a .moe.jsonl file")
        return path.open("rb")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file", advice="check the path") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {getattr(error, 'strerror', None) or error}", advice="name another file") from error


def _check_encoding(line: bytes) -> None:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ShapeError(f"not UTF-8 at byte {error.start}") from error


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
        return f"not JSON: {found[1].decode()} is no JSON number"
    return f"not JSON: {error}"


def _is_json(line: bytes) -> bool:
    try:
        msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True
