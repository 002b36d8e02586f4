"""Files as they come in the world: each with one thing wrong, small ones kept as they are, large ones made."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import zstandard

from tests.conftest import GOLDEN as NEWEST

GOLDEN = NEWEST.with_name("golden-1.0.moe.jsonl")
"""The golden session of the first version: it never changes."""
FIXTURES = Path(__file__).parent / "bad_files"
"""Written by `python -m tests.sessions.damage`, from the golden session."""

Lines = list[bytes]


def golden() -> Lines:
    return GOLDEN.read_bytes().splitlines()


def changed(line: bytes, **fields: object) -> bytes:
    return json.dumps(json.loads(line) | fields, separators=(",", ":")).encode()


def whole(lines: Lines) -> bytes:
    return b"\n".join(lines) + b"\n"


def at(number: int, line: bytes) -> bytes:
    """The golden session with one more line before that of this index."""
    lines = golden()
    return whole([*lines[:number], line, *lines[number:]])


def with_token(**fields: object) -> bytes:
    """The golden session with its fourth line, a token, changed."""
    lines = golden()
    return whole([*lines[:3], changed(lines[3], **fields), *lines[4:]])


def replaced(before: bytes, after: bytes) -> bytes:
    """The golden session with a part of its fourth line replaced."""
    lines = golden()
    assert before in lines[3]
    return whole([*lines[:3], lines[3].replace(before, after), *lines[4:]])


SMALL: dict[str, tuple[Callable[[], bytes], str]] = {
    "torn-last-line": (lambda: whole(golden())[:-30], ""),
    "zeros-at-the-end": (lambda: whole(golden()) + bytes(100), ""),
    "byte-order-mark": (lambda: b"\xef\xbb\xbf" + whole(golden()), ""),
    "windows-line-ends": (lambda: b"\r\n".join(golden()) + b"\r\n", ""),
    "empty-lines": (lambda: b"\n\n".join(golden()) + b"\n\n\n", ""),
    "no-newline-at-the-end": (lambda: whole(golden())[:-1], ""),
    "newer-minor": (
        lambda: whole([changed(golden()[0], schema_minor=9), b'{"event":"later","x":[1]}', *golden()[1:]]),
        "",
    ),
    "newer-major": (
        lambda: whole([changed(golden()[0], schema=3), *golden()[1:]]),
        "line 1: schema 3, while this moe-watch reads up to schema 2: update moe-watch",
    ),
    "schema-zero": (lambda: whole([changed(golden()[0], schema=0)]), "line 1: no session header, schema 0 does not"),
    "empty": (lambda: b"", "the file is empty"),
    "only-newlines": (lambda: b"\n\n\n", "the file is empty"),
    "no-header": (lambda: whole(golden()[1:]), "line 1: no session header, the first event is 'token'"),
    "second-header": (lambda: at(5, golden()[0]), "line 6: a second header"),
    "garbage-in-the-middle": (lambda: at(5, b"\x00\x01garbage"), "line 6: not JSON"),
    "two-lines-in-one": (lambda: at(5, golden()[1] + golden()[2]), "line 6: not JSON"),
    "old-mac-line-ends": (lambda: b"\r".join(golden()), "line 1: no session header, not JSON"),
    "utf-16": (lambda: whole(golden()).decode().encode("utf-16"), "line 1: no session header, not UTF-8 at byte 0"),
    "latin-1": (lambda: replaced(b'"("', b'"\xe9"'), "line 4: not UTF-8 at byte"),
    "overlong-utf-8": (lambda: replaced(b'"("', b'"\xc0\xaf"'), "line 4: not UTF-8 at byte"),
    "half-a-surrogate-pair": (lambda: replaced(b'"("', b'"\\ud800"'), "line 4: not JSON"),
    "nan": (lambda: replaced(b'"logprob":-0.25', b'"logprob":NaN'), "line 4: not JSON (NaN is not a JSON number)"),
    "infinity": (lambda: replaced(b'"logprob":-0.25', b'"logprob":-Infinity'), "Infinity is not a JSON number"),
    "number-too-large": (
        lambda: replaced(b'"logprob":-0.25', b'"logprob":-1e999'),
        "line 4: not an event: Number out of",
    ),
    "log-probability-above-zero": (lambda: with_token(logprob=0.5), "line 4: a log-probability of 0.5 is impossible"),
    "margin-above-one": (lambda: with_token(top_margin=1.5), "line 4: a top_margin of 1.5 is impossible"),
    "expert-out-of-range": (lambda: with_token(experts=[4, 1, 3, 0]), "line 4: layer 1 selects expert 4 of 4"),
    "expert-negative": (lambda: with_token(experts=[0, 1, -1, 0]), "line 4: layer 2 selects expert -1"),
    "expert-twice": (lambda: with_token(experts=[0, 1, 3, 3]), "line 4: layer 2 selects an expert twice"),
    "too-many-experts": (lambda: with_token(experts=[0, 1, 2, 3, 0, 1]), "experts holds 6 values instead of 4"),
    "weights-of-another-model": (lambda: with_token(weights=[1, 2, 3]), "weights holds 3 values instead of 4"),
    "entropy-above-one": (lambda: with_token(entropy=[10001, 5]), "entropy holds 10001, above the maximum of 10000"),
    "weight-negative": (lambda: with_token(weights=[-1, 2, 3, 4]), "weights holds -1, which is negative"),
    "id-too-large": (lambda: with_token(id=1 << 70), "line 4: a token id of 1180591620717411303424 is impossible"),
    "index-twice": (lambda: at(3, golden()[2]), "line 4: token 1 is repeated; the previous token is 1"),
    "index-backwards": (lambda: at(4, golden()[1]), "line 5: token 0 is out of order; the previous token is 2"),
    "index-huge": (lambda: with_token(i=1 << 60), "line 4: a token index of 1152921504606846976 is impossible"),
    "time-negative": (lambda: with_token(t=-1.0), "line 4: a time of -1.0 s is impossible"),
    "time-without-end": (lambda: with_token(t=1e300), "line 4: a time of 1e+300 s is impossible"),
    "speed-of-zero": (
        lambda: at(3, b'{"event":"cost","tap_off":1.0,"tap_on":0.0,"ratio":0.0}'),
        "line 4: tap_on is 0.0, outside 1e-06 to 1e+09",
    ),
    "bytes-of-300-digits": (
        lambda: at(3, b'{"event":"vitals","t":0.1,"memory_used":1' + b"0" * 300 + b"}"),
        "line 4: memory_used is 301 digits, outside 0 to 9.0072e+15",
    ),
    "bytes-beyond-a-float": (
        lambda: at(3, b'{"event":"vitals","t":0.1,"memory_used":' + str(1 << 60).encode() + b"}"),
        "line 4: memory_used is 1152921504606846976, outside 0 to 9.0072e+15",
    ),
    "units-of-nothing": (
        lambda: whole([changed(golden()[0], units={"entropy": 1e-300}), *golden()[1:]]),
        "line 1: no session header, a unit of 1e-300 for entropy is impossible",
    ),
    "experts-without-end": (
        lambda: whole([changed(golden()[0], model=json.loads(golden()[0])["model"] | {"experts": 10**15})]),
        "line 1: no session header, 2 layers × 1000000000000000 experts is impossible",
    ),
    "another-units-of-pressure": (
        lambda: whole([changed(golden()[0], pressure="later-v9"), *golden()[1:]]),
        "line 1: no session header, pressure mode 'later-v9' is not one of",
    ),
    "array-for-an-event": (lambda: at(3, b"[1,2,3]"), "line 4: not an event: Expected `object`"),
    "an-event-of-no-kind": (lambda: at(3, b'{"event":"tokn","i":3}'), "line 4: not an event: Invalid value 'tokn'"),
    "binary": (lambda: b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "line 1: no session header, not UTF-8 at byte 0"),
    "gguf": (lambda: b"GGUF\x03\x00\x00\x00" + bytes(40), "line 1: no session header, not JSON"),
    "a-letter": (lambda: b"Dear diary,\n", "line 1: no session header, not JSON"),
    "compressed-and-damaged": (lambda: b"\x28\xb5\x2f\xfd" + b"garbage" * 9, "the compressed data is damaged"),
    "compressed": (lambda: zstandard.compress(whole(golden())), ""),
}
"""Maker of the file, and the message of reading it; no message where it is read."""

MEGABYTE = 1 << 20

LARGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "line-of-17-megabytes": (
        lambda path: path.write_bytes(at(3, b'{"event":"marker","note":"' + b"x" * (17 * MEGABYTE) + b'"}')),
        "line 4: longer than 16 MB",
    ),
    "line-without-end": (lambda path: _sparse(path, 1 << 30), "line 4: longer than 16 MB"),
    "nested-a-million-deep": (
        lambda path: path.write_bytes(at(3, b'{"event":"marker","x":' + b"[" * MEGABYTE + b"]" * MEGABYTE + b"}")),
        "line 4: nested too deeply",
    ),
    "objects-a-million-deep": (
        lambda path: path.write_bytes(at(3, b'{"event":"marker","x":' + b'{"a":' * MEGABYTE)),
        "line 4: nested too deeply",
    ),
    "experts-of-a-million": (
        lambda path: path.write_bytes(with_token(experts=[0] * 1_000_000)),
        "line 4: experts holds 1000000 values instead of 4",
    ),
    "layers-of-a-million": (
        lambda path: path.write_bytes(
            whole([changed(golden()[0], model=json.loads(golden()[0])["model"] | {"layers": list(range(1_000_000))})])
        ),
        "line 1: no session header, 1000000 layers × 4 experts is impossible",
    ),
    "integer-of-a-million-digits": (
        lambda path: path.write_bytes(replaced(b'"id":3', b'"id":' + b"9" * 1_000_000)),
        "line 4: not an event: Integer value out of range",
    ),
    "newlines-without-end": (
        lambda path: path.write_bytes(whole(golden()[:3]) + b"\n" * (20 * MEGABYTE)),
        "10000 empty lines in a row",
    ),
    "compressed-zeros-without-end": (
        lambda path: path.write_bytes(_bomb(whole(golden()[:3]), b"\0", 3 << 30)),
        "unpacks to more than 200 times its size",
    ),
    "compressed-newlines-without-end": (
        lambda path: path.write_bytes(_bomb(whole(golden()[:3]), b"\n", 3 << 30)),
        "unpacks to more than 200 times its size",
    ),
}
"""Writer of the file, and the message of reading it."""


def _sparse(path: Path, size: int) -> None:
    path.write_bytes(whole(golden()[:3]))
    with path.open("ab") as file:
        file.truncate(size)


def _bomb(start: bytes, filling: bytes, size: int) -> bytes:
    """A small zstd file that unpacks to `size` bytes."""
    packer = zstandard.ZstdCompressor(level=1).compressobj()
    packed = [packer.compress(start)]
    block = filling * (16 * MEGABYTE)
    packed += [packer.compress(block) for _ in range(size // len(block))]
    return b"".join([*packed, packer.flush()])


if __name__ == "__main__":
    FIXTURES.mkdir(exist_ok=True)
    for name, (make, _) in SMALL.items():
        (FIXTURES / name).write_bytes(make())
