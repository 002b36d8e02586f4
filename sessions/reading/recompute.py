"""A session's derived events computed anew from its tokens: what is shown never depends on trust in a file."""

from __future__ import annotations

from math import isclose
from typing import Any

import msgspec
import numpy as np

from moe_watch.routing.arrays import unpacked
from moe_watch.routing.events import Chunk, Event, Header, Keyframe, StreamItem, Table, Token, Unknown
from moe_watch.routing.pressure.instruments import Instruments

TOLERANCE = 1e-9
"""How far recorded and recomputed numbers may lie apart, relative above 1 and absolute below: other machines may round
the last digits of a sum or of `tanh` differently."""


class Beginnings:
    """Tells where a run's events begin: the keyframes before any token, and those after something that is missing."""

    def __init__(self) -> None:
        self._next = -1
        """Index behind that of the last token; -1 before there is any event that says how far the run is."""

    def see(self, event: StreamItem) -> bool:
        """Take in the next event; returns whether it is a keyframe that what comes before it does not lead to."""
        if not isinstance(event, Token | Keyframe):
            return False
        begins = isinstance(event, Keyframe) and event.i > self._next
        self._next = event.i + isinstance(event, Token)
        return begins


class Recomputed:
    """A file's events, chunks and keyframes replaced by those that the instruments give on its tokens.

    A keyframe that comes before any token is where the recording of a longer run begins, one with a later index is
    where it goes on after something that is missing: these are taken as they stand.

    Args:
        header: the file's header.
        differing: where to note recorded chunks and keyframes that differ from the recomputed ones by more than
            `TOLERANCE`.
    """

    def __init__(self, header: Header, differing: set[tuple[type, int]]) -> None:
        self._header = header
        self._instruments = Instruments(header)
        self._differing = differing
        self._derived: dict[tuple[type, int], Event] = {}
        self._beginnings = Beginnings()
        self._chunks_before = 0
        """Chunks that the keyframe at the beginning counts already: they cannot be computed from what follows it."""

    def take(self, event: Event | Unknown) -> list[Event | Unknown]:
        """What stands in the place of the next event."""
        begins = self._beginnings.see(event)
        if isinstance(event, Chunk):
            if event.index < self._chunks_before:
                return [event]
            self._compare(event, self._derived.get((Chunk, event.index)))
            return []
        if isinstance(event, Keyframe):
            if not begins:
                self._compare(event, self._derived.get((Keyframe, event.i)) or self._instruments.keyframe())
                return []
            self._instruments, self._chunks_before = Instruments(self._header), event.chunks
        return [event, *self._feed(event)]

    def state(self) -> Keyframe:
        """The run's state after the events so far, as a keyframe there would have it."""
        return self._instruments.keyframe()

    def _feed(self, event: Event | Unknown) -> list[Event]:
        derived = [] if isinstance(event, Unknown) else self._instruments.feed(event)
        self._derived = {_key(each): each for each in derived}
        return derived

    def _compare(self, recorded: Event, computed: Event | None) -> None:
        if computed is None or not agree(recorded, computed):
            self._differing.add(_key(recorded))


def agree(a: Any, b: Any) -> bool:
    """Whether two values, of events or parts of events, are equal within `TOLERANCE`."""
    if a == b:
        return True
    if isinstance(a, int | float) and isinstance(b, int | float):
        return isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    if isinstance(a, bytes) or isinstance(b, bytes):
        return _tables_agree(a, b)
    if type(a) is not type(b):
        return False
    if isinstance(a, msgspec.Struct):
        return all(agree(getattr(a, name), getattr(b, name)) for name in a.__struct_fields__)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(agree(a[key], b[key]) for key in a)
    return isinstance(a, list) and len(a) == len(b) and all(map(agree, a, b))


def _tables_agree(a: Table, b: Table) -> bool:
    first, second = unpacked(a), unpacked(b)
    if first.shape != second.shape:
        return False
    most = np.maximum(1.0, np.maximum(np.abs(first), np.abs(second)))
    return bool((np.abs(first - second) <= TOLERANCE * most).all())


def _key(event: Event) -> tuple[type, int]:
    return (Chunk, event.index) if isinstance(event, Chunk) else (type(event), getattr(event, "i", -1))
