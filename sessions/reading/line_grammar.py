"""Line grammar of a session file: the first bytes of a line give its kind and its position in the run.

moe-watch writes `event` as the first key of every line. A token or keyframe has `i` as the second key, a token has `t`
as the third. Functions here read such lines by their first bytes, which takes a fraction of decoding them. Other
writers may order their keys differently: their lines are decoded by msgspec, with the same result. No function checks
more of a line than it returns; `moe_watch.sessions.reading.validation` checks events.

This is the only module of the product that spells out these bytes. `docs/session-format.md` defines them.
"""

from __future__ import annotations

import re
from contextlib import suppress
from math import isfinite

import msgspec

TOKEN, KEYFRAME, VITALS, CHUNK, PERTURBATION, MARKER, OTHER, GARBAGE, BLANK = b"TKVCPMO?-"
"""Kinds of lines, one byte each. `OTHER` is any other event of this version, `GARBAGE` any other line."""

_START = '{"event":"'
"""First bytes of every line that moe-watch writes."""
_KINDS = {
    "token": TOKEN,
    "keyframe": KEYFRAME,
    "vitals": VITALS,
    "chunk": CHUNK,
    "perturbation": PERTURBATION,
    "marker": MARKER,
    "refused": OTHER,
    "warning": OTHER,
    "state": OTHER,
    "cost": OTHER,
    "change": OTHER,
    "fork": OTHER,
}


def head(event: str) -> bytes:
    """Return the first bytes of an event's line as moe-watch writes it, up to the comma after its name."""
    return f'{_START}{event}",'.encode()


TOKEN_HEAD, KEYFRAME_HEAD, VITALS_HEAD = head("token"), head("keyframe"), head("vitals")

_HEAD_BYTES = 16
"""Length of the shortest prefix that no two events share."""
_HEADS = {head(name)[:_HEAD_BYTES]: kind for name, kind in _KINDS.items()}

_INDEX = r'"i":(\d{1,16})'
_POSITION = re.compile(rf'{{"event":"(?:token",{_INDEX},"t":(\d{{1,9}}(?:\.\d{{1,9}})?)|keyframe",{_INDEX}),'.encode())
POSITION_BYTES = 80
"""Bytes of a line that contain its position, if moe-watch wrote it."""
_TEXT = re.compile(
    rf'{{"event":"token",{_INDEX},"t":[\d.e+-]{{1,24}},"phase":"\w{{6,7}}","source":"(\w{{6,9}})","id":-?\d{{1,16}},'
    r'"text":("(?:[^"\\]|\\.)*+")'.encode()
)
"""Start of a token's line up to its text. The routing after it, most of the line, is not read."""

_DECODING_ERRORS = (ValueError, RecursionError, msgspec.MsgspecError)


class EventPosition(msgspec.Struct):
    """Position of a token, or of another event, in the run."""

    i: int
    """Token index."""
    t: float = 0.0
    """Seconds since the run began."""


class _Name(msgspec.Struct):
    event: str


class _Index(msgspec.Struct, tag_field="event", tag="token"):
    i: int


class _Text(msgspec.Struct, tag_field="event", tag="token"):
    i: int
    source: str
    text: str


def event_name(line: bytes) -> str | None:
    """Return the value of a line's key `event`, None if the line is not a JSON object with one."""
    with suppress(*_DECODING_ERRORS):
        return _decode_name(line).event
    return None


def kind_of(line: bytes) -> int:
    """Return the kind of a line, by its first bytes if moe-watch wrote it."""
    return _HEADS.get(line[:_HEAD_BYTES]) or _decoded_kind(line)


def _decoded_kind(line: bytes) -> int:
    if not line.strip():
        return BLANK
    name = event_name(line)
    return GARBAGE if name is None else _KINDS.get(name, GARBAGE)


def quick_position(start: bytes) -> EventPosition | None:
    """Return the position of a token or keyframe that moe-watch wrote, None for any other line.

    Args:
        start: the first `POSITION_BYTES` of the line, or more.
    """
    if found := _POSITION.match(start):
        i, t, keyframe = found.groups()
        return EventPosition(int(i or keyframe), float(t or 0))
    return None


def position_of(line: bytes) -> EventPosition | None:
    """Return the position of a line's event, None if it has none."""
    return quick_position(line) or decoded_position(line)


def decoded_position(line: bytes) -> EventPosition | None:
    """Return the position of a whole line in any order of keys, None if its event has none."""
    with suppress(*_DECODING_ERRORS):
        position = _decode_position(line)
        return position if isfinite(position.t) else None
    return None


def token_index(line: bytes) -> int | None:
    """Return the index of a token, None if the line is JSON of no token."""
    with suppress(*_DECODING_ERRORS):
        return _decode_index(line).i
    return None


def token_text(line: bytes) -> tuple[int, str, str] | None:
    """Return the index, source and text of a token, None if the line is not a token's or cannot be read."""
    with suppress(*_DECODING_ERRORS):
        if found := _TEXT.match(line):
            return int(found[1]), found[2].decode(), _decode_string(found[3])
        token = _decode_text(line)
        return token.i, token.source, token.text
    return None


_decode_name = msgspec.json.Decoder(_Name).decode
_decode_position = msgspec.json.Decoder(EventPosition).decode
_decode_index = msgspec.json.Decoder(_Index).decode
_decode_text = msgspec.json.Decoder(_Text).decode
_decode_string = msgspec.json.Decoder(str).decode
