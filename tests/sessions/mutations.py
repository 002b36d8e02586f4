"""Damaged session files: recordings that were mutated at random, always the same for a seed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import zstandard

TESTS = Path(__file__).parents[1]
LINES = 45
"""Of each recording: short files are mutated faster, and as deeply."""
SOUND_SHARE = 0.9
"""Of the files that are mutated; the others are damaged already."""

INTERESTING: tuple[Any, ...] = (
    *(None, True, "", "x", [], {}, [[]], {"event": "token"}, [None], "\x1b[2J", "NaN", 0.5, 1e-320, 1e308, -1e308),
    *(0, -1, 1, 2, 7, 255, 256, 65_535, 65_536, 2**31, 2**53, 2**53 + 1, 2**63, 2**64, -(2**63), 10**300),
    *("token", "chunk", "session", "keyframe", "finished", "fresh_context", "prefill", "decode", "chronomoe-v1"),
)
BYTES = (
    *(b"\x00", b"\xff", b"\n", b"\n\n", b"{", b"}", b"[", b"]", b'"', b"\\", b"\\ud800"),
    *(b"NaN", b"1e999", b"\xef\xbb\xbf"),
)

Mutation = Callable[[bytes, random.Random], bytes]


def sound() -> list[bytes]:
    """Sessions of every kind and version, with every event."""
    files = [*(TESTS / "golden").glob("*.jsonl"), *(TESTS / "sessions" / "recorded").glob("*.jsonl")]
    whole = [b"".join(path.read_bytes().splitlines(keepends=True)[:LINES]) for path in sorted(files)]
    return [*whole, *map(_every_event, whole)]


def damaged() -> list[bytes]:
    """Files that were found to be hard."""
    folder = TESTS / "sessions"
    return [path.read_bytes() for name in ("bad_files", "fuzz_found") for path in sorted((folder / name).glob("*"))]


def made(seed: int, sessions: list[bytes], hard: list[bytes]) -> bytes:
    """The damaged file of this seed."""
    rng = random.Random(seed)
    return mutated(rng.choice(sessions if rng.random() < SOUND_SHARE else hard), rng)


def _every_event(session: bytes) -> bytes:
    """A session with the events that few have."""
    more: list[dict[str, Any]] = [
        {"event": "change", "i": 9, "t": 0.3, "tap": False, "multistep": True, "sampling": {"seed": 1, "top_k": 5}},
        *_masks(session),
        {"event": "cost", "tap_off": 10.0, "tap_on": 9.0, "ratio": 0.9, "interval": [0.8, 1.0], "i": 9},
        {"event": "fork", "i": 9, "t": 0.3, "arm": "text", "replicate": 0, "seed": 3, "text": "x"}
        | {"injected": [1], "generated": [2, 3]},
        {"event": "state", "state": "fresh_context", "i": 9, "t": 0.3},
        {"event": "marker", "i": 9, "t": 0.3, "note": "here"},
    ]
    return session + b"".join(json.dumps(event).encode() + b"\n" for event in more)


def _masks(session: bytes) -> list[dict[str, Any]]:
    """Changes of the mask, of a layer and an expert that the session's model has."""
    layers = json.loads(session.splitlines()[0])["model"]["layers"]
    off = [[layers[-1], [0]]] if layers else []
    named = {"experts_per_token": 1} if layers else {}
    return [
        {"event": "change", "i": 9, "t": 0.3, "mask": off} | named,
        {"event": "change", "i": 9, "t": 0.3, "mask": []},
    ]


# -- how


def mutated(data: bytes, rng: random.Random) -> bytes:
    """One to four mutations of a file, and now and then its compressed form."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        data = rng.choice(MUTATIONS)(data, rng)
    if rng.random() < 0.05:
        data = rng.choice((_same, _flip))(zstandard.compress(data), rng)
    return data


def _same(data: bytes, _: random.Random) -> bytes:
    return data


def _flip(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 3, 10))):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _insert(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice(BYTES) * rng.choice((1, 1, 2, 50)) + data[at:]


def _remove(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + data[at + rng.choice((1, 2, 5, 40)) :]


def _swap_lines(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    if lines:
        a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
        lines[a], lines[b] = lines[b], lines[a]
    return b"".join(lines)


def _drop_line(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    if lines:
        del lines[rng.randrange(len(lines))]
    return b"".join(lines)


def _repeat_line(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    if lines:
        lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines))
    return b"".join(lines)


def _change_value(data: bytes, rng: random.Random) -> bytes:
    """One value of one line, at any depth, becomes another."""
    lines = data.splitlines(keepends=True)
    if not lines:
        return data
    at = rng.choice((0, rng.randrange(len(lines)), rng.randrange(len(lines))))
    with suppress(ValueError, RecursionError):
        value = json.loads(lines[at])
        lines[at] = json.dumps(_with_another(value, rng)).encode() + b"\n"
    return b"".join(lines)


def _with_another(value: Any, rng: random.Random) -> Any:
    """The value with one part of it replaced, removed, or added to."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        name = rng.choice(sorted(value))
        if rng.random() < 0.1:
            return {key: each for key, each in value.items() if key != name}
        return value | {name: _with_another(value[name], rng)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        if rng.random() < 0.2:
            return value[:at] + value[at + 1 :] if rng.random() < 0.5 else value[:at] + value[at : at + 1] + value[at:]
        return [*value[:at], _with_another(value[at], rng), *value[at + 1 :]]
    if isinstance(value, int | float) and not isinstance(value, bool) and rng.random() < 0.4:
        return value + rng.choice((-1, 1, 0.5, -value, value, 1000))
    return rng.choice(INTERESTING)


MUTATIONS: tuple[Mutation, ...] = (
    *(_flip, _cut, _insert, _remove, _swap_lines, _drop_line, _repeat_line),
    *(_change_value,) * 7,
)
