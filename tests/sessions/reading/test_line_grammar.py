"""The line grammar agrees with the encoder, and one module has it."""

from __future__ import annotations

import pathlib
from typing import get_args

import pytest

from moe_watch.routing.events import Event, Keyframe, Token, from_json, to_json
from moe_watch.routing.pressure.instruments import Instruments
from moe_watch.sessions.reading import line_grammar as wire
from tests.sessions.kit import HEADER, make_token

ROOT = pathlib.Path(__file__).resolve().parents[3]
PRODUCT = ("routing", "vitals", "backends", "sessions", "tui", "commands")
REORDERED = b'{"t":1.5,"text":"x","i":7,"id":1,"source":"generated","phase":"decode", "event":"token"}'


def test_no_other_module_spells_out_how_a_line_begins():
    found = [
        path.relative_to(ROOT).as_posix()
        for package in PRODUCT
        for path in (ROOT / package).rglob("*.py")
        if '{"event"' in path.read_text(encoding="utf-8").replace("\\", "").replace("{{", "{")
    ]
    assert found == ["sessions/reading/line_grammar.py"]


def test_every_event_has_a_kind_and_no_two_heads_are_equal():
    names = {kind.__struct_config__.tag for kind in get_args(Event)} - {"session"}
    assert names == set(wire._KINDS)
    assert len(wire._HEADS) == len(names)


@pytest.mark.parametrize("event", [make_token(3), make_token(3, "prompt")], ids=["generated", "prompt"])
def test_a_token_that_is_written_is_read_by_its_first_bytes(event):
    line = to_json(event)
    assert line.startswith(wire.TOKEN_HEAD)
    assert wire.quick_position(line[: wire.POSITION_BYTES]) == wire.decoded_position(line)
    assert wire.position_of(line) == wire.EventPosition(event.i, event.t)
    assert wire._TEXT.match(line)
    assert wire.token_text(line) == (event.i, event.source, event.text)
    assert wire.token_index(line) == event.i
    assert wire.kind_of(line) == wire.TOKEN


def test_a_keyframe_that_is_written_is_read_by_its_first_bytes():
    line = to_json(Instruments(HEADER).keyframe())
    assert isinstance(from_json(line), Keyframe)
    assert line.startswith(wire.KEYFRAME_HEAD)
    assert wire.quick_position(line[: wire.POSITION_BYTES]) == wire.EventPosition(from_json(line).i)
    assert wire.kind_of(line) == wire.KEYFRAME
    assert wire.token_index(line) is wire.token_text(line) is None


def test_another_order_of_keys_reads_the_same():
    assert isinstance(from_json(REORDERED), Token)
    assert not wire.quick_position(REORDERED)
    assert wire.position_of(REORDERED) == wire.EventPosition(7, 1.5)
    assert wire.token_text(REORDERED) == (7, "generated", "x")
    assert (wire.token_index(REORDERED), wire.kind_of(REORDERED)) == (7, wire.TOKEN)


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (b"", wire.BLANK),
        (b" \r", wire.BLANK),
        (b"17", wire.GARBAGE),
        (b"\xff", wire.GARBAGE),
        (b"[" * 9999, wire.GARBAGE),
    ],
)
def test_a_line_that_is_no_event_has_neither_position_nor_text(line, kind):
    assert wire.kind_of(line) == kind
    assert wire.position_of(line) is wire.token_text(line) is wire.token_index(line) is wire.event_name(line) is None


def test_a_header_is_no_event_of_the_index():
    assert wire.event_name(to_json(HEADER)) == "session"
    assert wire.kind_of(to_json(HEADER)) == wire.GARBAGE
