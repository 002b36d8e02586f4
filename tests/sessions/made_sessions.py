"""Whole session files, made of the kit's tokens and the events that instruments derive from them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from moe_watch.routing.events import Event, Header, State, Token, to_json
from moe_watch.routing.pressure.instruments import Instruments
from tests.sessions.kit import HEADER, make_token

PROMPT = 2


def made_tokens(number: int) -> list[Token]:
    """Two prompt tokens, and generated ones up to `number`."""
    return [make_token(i, "prompt" if i < PROMPT else "generated") for i in range(number)]


def with_chunks(header: Header, events: Iterable[Event]) -> Iterator[Event]:
    """A header and events, each followed by what is derived from it."""
    instruments = Instruments(header)
    yield header
    for event in events:
        yield event
        yield from instruments.feed(event)


def ended(number: int) -> State:
    return State(state="finished", i=number, t=1.0, why="length")


def write_session(
    path: Path, number: int = 30, *, header: Header = HEADER, events: Iterable[Event] | None = None
) -> Path:
    """A session of so many tokens, or of these events, that ends as it should."""
    inside = made_tokens(number) if events is None else events
    lines = [to_json(event) for event in with_chunks(header, [*inside, ended(number)])]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def bare(token: Token) -> Token:
    """A token of which nothing but its experts was recorded."""
    return msgspec.structs.replace(token, weights=None, entropy=None, margin=None, logprob=None, top_margin=None)
