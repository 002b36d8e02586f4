"""A session's derived events computed anew from its tokens: what is shown never depends on trust in a file."""

from __future__ import annotations

from collections.abc import Iterator
from math import isclose
from typing import Any

import msgspec

from routing.events import Chunk, Event, Keyframe, Token, Unknown
from routing.instruments import Instruments
from sessions.reader import SessionReader

TOLERANCE = 1e-9
"""How far recorded and recomputed numbers may lie apart, relative above 1 and absolute below: other machines may round
the last digits of a sum or of `tanh` differently."""


class Recomputed:
    """The events of a file, chunks and keyframes replaced by those that the instruments give on its tokens.

    A keyframe that comes before any token is where the recording of a longer run begins: it is taken as it stands.
    """

    def __init__(self, reader: SessionReader) -> None:
        self._reader = reader
        self._instruments = Instruments(reader.header)
        self._derived: dict[tuple[type, int], Event] = {}
        self._begun = False
        self.mismatches = 0
        """Recorded chunks and keyframes so far that differ from the recomputed ones by more than `TOLERANCE`."""

    def __iter__(self) -> Iterator[Event | Unknown]:
        for event in self._reader:
            if isinstance(event, Chunk):
                self._compare(event, self._derived.get((Chunk, event.index)))
            elif isinstance(event, Keyframe) and self._begun:
                self._compare(event, self._derived.get((Keyframe, event.i)) or self._instruments.keyframe())
            else:
                yield event
                yield from self._feed(event)

    def _feed(self, event: Event | Unknown) -> list[Event]:
        self._begun |= isinstance(event, Token | Keyframe)
        derived = [] if isinstance(event, Unknown) else self._instruments.feed(event)
        self._derived = {_key(each): each for each in derived}
        return derived

    def _compare(self, recorded: Event, computed: Event | None) -> None:
        self.mismatches += computed is None or not agree(recorded, computed)


def agree(a: Any, b: Any) -> bool:
    """Whether two values, of events or parts of events, are equal within `TOLERANCE`."""
    if a == b:
        return True
    if isinstance(a, int | float) and isinstance(b, int | float):
        return isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    if type(a) is not type(b):
        return False
    if isinstance(a, msgspec.Struct):
        return all(agree(getattr(a, name), getattr(b, name)) for name in a.__struct_fields__)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(agree(a[key], b[key]) for key in a)
    return isinstance(a, list) and len(a) == len(b) and all(map(agree, a, b))


def _key(event: Event) -> tuple[type, int]:
    return (Chunk, event.index) if isinstance(event, Chunk) else (type(event), getattr(event, "i", -1))
