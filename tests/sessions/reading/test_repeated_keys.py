"""A repeated key in a line is refused: JSON readers differ in which value they use."""

from __future__ import annotations

import pytest

from moe_watch.routing.errors import UserError
from moe_watch.routing.events import from_json
from moe_watch.sessions.reading.reader import read_session
from moe_watch.sessions.reading.repeated_keys import repeated_key
from moe_watch.sessions.verifying.file import verify


@pytest.fixture
def lines(golden_path):
    return golden_path.read_bytes().splitlines()


def of(lines, name):
    return next(at for at, line in enumerate(lines) if line.startswith(b'{"event":"%s"' % name.encode()))


def with_key(line, key, value):
    """The line with one more key at its end."""
    return line[:-1] + b',"%s":%s}' % (key, value)


TWICE = [
    ("token", lambda line: with_key(with_key(line, b"logprob", b"-0.5"), b"logprob", b"-100000.5"), "logprob"),
    ("token", lambda line: with_key(line, b"text", b'"other"'), "text"),
    ("token", lambda line: line[:-1] + b' , "i" : 0}', "i"),
    ("token", lambda line: line[:-1] + b',"\\u0069":0}', "i"),
    ("token", lambda line: with_key(with_key(line, b"new\\\\", b"1"), b"i", b"0"), "i"),
    ("token", lambda line: line.replace(b'"text":"def"', b'"text":"\\\\","text":"\\\\"'), "text"),
    ("chunk", lambda line: line.replace(b'"signals":{', b'"signals":{"coherence":0.1,'), "coherence"),
    ("chunk", lambda line: with_key(line, b"residual", b"0.5"), "residual"),
    ("vitals", lambda line: line.replace(b'"temperatures":[{', b'"temperatures":[{"celsius":20.0,'), "celsius"),
    ("marker", lambda line: with_key(line, b"note", b'"another"'), "note"),
    ("keyframe", lambda line: with_key(line, b"residual", b"0.0"), "residual"),
    ("session", lambda line: with_key(line, b"chunk_size", b"2"), "chunk_size"),
    ("session", lambda line: line.replace(b'"model":{', b'"model":{"experts":4,'), "experts"),
]


@pytest.mark.parametrize(("name", "change", "key"), TWICE)
def test_is_refused(tmp_path, lines, name, change, key):
    at = of(lines, name)
    changed = change(lines[at])
    assert changed != lines[at]
    lines[at] = changed
    path = tmp_path / "twice.moe.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(UserError, match=f"line {at + 1}: .*key '{key}' is repeated"):
        list(read_session(path))
    if at:
        assert "unreadable lines" in {finding.check for finding in verify(path).findings}


@pytest.mark.parametrize(
    "change",
    [
        lambda line: line,
        lambda line: with_key(line, b"later", b'{"x":[1,{"y":2}]}'),
        lambda line: with_key(line, b"later", b'[{"a":1},{"a":2}]'),
        lambda line: line.replace(b'"text":"def"', b'"text":"a\\"b\\\\"'),
        lambda line: line.replace(b'"text":"def"', b'"text":"\\\\\\""'),
        lambda line: line.replace(b'"text":"def"', b'"text":"\\",\\"i\\":"'),
        lambda line: line.replace(b'"text":"def"', b'"text":"\\u0022\\u005c"'),
        lambda line: with_key(line, b"logprob", b"null"),
        lambda line: with_key(line, b"would_stop", b"false"),
        lambda line: line.replace(b":", b" : "),
        lambda line: with_key(line, b"later", b"9" * 5000),
    ],
)
def test_what_stands_once_is_read(lines, change):
    line = change(lines[of(lines, "token")])
    assert repeated_key(line, from_json(line)) is None


def test_what_is_nested_without_end_is_refused(tmp_path, lines):
    deep = b"[" * 100_000 + b"]" * 100_000
    for name in ("token", "chunk"):
        at = of(lines, name)
        path = tmp_path / "deep.moe.jsonl"
        path.write_bytes(b"\n".join([*lines[:at], with_key(lines[at], b"later", deep), *lines[at + 1 :]]) + b"\n")
        with pytest.raises(UserError, match="nested too deeply"):
            list(read_session(path))
