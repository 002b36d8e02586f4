"""Recomputation of a session's derived events from its tokens, so that no display trusts the recorded ones."""

from __future__ import annotations

from math import isclose

import msgspec
import numpy as np

from moe_watch.routing.arrays import unpacked
from moe_watch.routing.events import Chunk, Event, Header, Keyframe, StreamItem, Table, Token, Unknown
from moe_watch.routing.pressure.instruments import Instruments

TOLERANCE = 1e-9
"""Tolerance between recorded and recomputed numbers, relative above 1 and absolute below: other machines may round the
last digits of a sum or of `tanh` differently."""


class Beginnings:
    """Detector of the keyframes that start a stretch of events: before the first token, or after missing tokens."""

    def __init__(self) -> None:
        self._next = -1
        """Index of the next token; -1 before the first token or keyframe."""

    def feed(self, event: StreamItem) -> bool:
        """Take the next event; return whether it is a keyframe that does not follow from the events before it."""
        if not isinstance(event, Token | Keyframe):
            return False
        begins = isinstance(event, Keyframe) and event.i > self._next
        self._next = event.i + isinstance(event, Token)
        return begins


class Recomputed:
    """Stream transform that replaces recorded chunks and keyframes by events that the instruments compute.

    A keyframe before the first token starts the recording of a longer run; one with a later index continues it after
    missing tokens. These cannot be computed and are kept unchanged.

    Args:
        header: the file's header.
        differing: set to which recorded chunks and keyframes are added that differ from the recomputed ones by more
            than `TOLERANCE`.
    """

    def __init__(self, header: Header, differing: set[tuple[type, int]]) -> None:
        self._header = header
        self._instruments = Instruments(header)
        self._differing = differing
        self._derived: dict[tuple[type, int], Event] = {}
        self._beginnings = Beginnings()
        self._chunks_before = 0
        """Number of chunks before the keyframe at the start; they cannot be computed from the events after it."""

    def feed(self, event: Event | Unknown) -> list[Event | Unknown]:
        """Take the next event; return the events that replace it."""
        begins = self._beginnings.feed(event)
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
        """Return the run's state after the events so far, as a keyframe."""
        return self._instruments.keyframe()

    def _feed(self, event: Event | Unknown) -> list[Event]:
        derived = [] if isinstance(event, Unknown) else self._instruments.feed(event)
        self._derived = {_key(each): each for each in derived}
        return derived

    def _compare(self, recorded: Event, computed: Event | None) -> None:
        if computed is None or not agree(recorded, computed):
            self._differing.add(_key(recorded))


def agree(a: object, b: object) -> bool:
    """Return whether two events, or parts of events, are equal within `TOLERANCE`."""
    if a == b:
        return True
    if isinstance(a, int | float) and isinstance(b, int | float):
        return isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(agree, a, b))
    if isinstance(a, bytes | list) and isinstance(b, bytes | list):  # one of them is a packed table
        return _tables_agree(a, b)
    if type(a) is not type(b):
        return False
    if isinstance(a, msgspec.Struct):
        return all(agree(getattr(a, name), getattr(b, name)) for name in a.__struct_fields__)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(agree(a[key], b[key]) for key in a)
    return False


def _tables_agree(a: Table, b: Table) -> bool:
    first, second = unpacked(a), unpacked(b)
    if first.shape != second.shape:
        return False
    most = np.maximum(1.0, np.maximum(np.abs(first), np.abs(second)))
    return bool((np.abs(first - second) <= TOLERANCE * most).all())


def _key(event: Event) -> tuple[type, int]:
    return (Chunk, event.index) if isinstance(event, Chunk) else (type(event), getattr(event, "i", -1))
