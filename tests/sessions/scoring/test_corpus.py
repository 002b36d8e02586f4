"""Corpora: what is read from each form of a line, and the line that an error names."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from moe_watch.routing.errors import UserError
from moe_watch.sessions.scoring.corpus import Example, read_corpus


def corpus(folder: Path, *lines: object, name: str = "corpus.jsonl") -> Path:
    path = folder / name
    texts = [each if isinstance(each, str) else json.dumps(each) for each in lines]
    path.write_text("".join(f"{each}\n" for each in texts), encoding="utf-8")
    return path


def test_texts_with_their_domains(tmp_path: Path) -> None:
    path = corpus(tmp_path, {"text": "ä\nb", "domain": "code"}, {"content": "c", "meta": [1]}, '"d"', "", {"text": ""})
    found = read_corpus(path)
    assert found.examples == [Example("ä\nb", "code"), Example("c"), Example("d")]
    assert found.name == str(path)
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.domains == ["code"]


def test_prompts_and_messages_are_conversations(tmp_path: Path) -> None:
    said = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    answer = [{"role": "assistant", "content": "a", "weight": 1}]
    path = corpus(
        tmp_path,
        {"prompt": "p", "completion": "c"},
        {"messages": [*said, *answer]},
        {"prompt": said, "completion": answer},
    )
    plain = [{"role": "assistant", "content": "a"}]
    assert [each.text for each in read_corpus(path).examples] == [
        [{"role": "user", "content": "p"}, {"role": "assistant", "content": "c"}],
        [*said, *plain],
        [*said, *plain],
    ]


def test_a_text_file_is_one_example(tmp_path: Path) -> None:
    path = tmp_path / "Wiki.TXT"
    path.write_bytes(b"\xef\xbb\xbfone\n\n{two}\n")
    assert read_corpus(path).examples == [Example("one\n\n{two}\n")]


def test_a_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "x"}\r\n{"text": "y"}\r\n')
    assert [each.text for each in read_corpus(path).examples] == ["x", "y"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("no JSON at all", "not JSON"),
        ('{"text": "a"', "not JSON"),
        ('{"text": NaN}', "not JSON"),
        ("[" * 100_000, "nested too deeply|not JSON"),
        ('["a"]', "neither an object nor a string"),
        ("3", "neither an object nor a string"),
        ('{"label": 1}', "no text, messages, or prompt and completion"),
        ('{"prompt": "a"}', "no text, messages, or prompt and completion"),
        ('{"text": 5}', "'text' is not a text"),
        ('{"text": ["a"]}', "'text' is not a text"),
        ('{"messages": "a"}', "'messages' is not a list of messages"),
        ('{"messages": ["a"]}', "message 1: not an object"),
        ('{"messages": [{"content": "a"}]}', "message 1: 'role' is not a text"),
        ('{"messages": [{"role": "user", "content": [{"type": "image"}]}]}', "message 1: 'content' is not a text"),
        ('{"messages": [{"role": "\x7fboss", "content": "a"}]}', "message 1: a role of"),
        ('{"prompt": "a", "completion": 4}', "'completion' is not a list of messages"),
        ('{"text": "a", "domain": 4}', "'domain' is not a short text"),
        ('{"text": "a", "domain": "' + "d" * 81 + '"}', "'domain' is not a short text"),
        ('{"text": "\\ud800"}', "not JSON"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    path = corpus(tmp_path, {"text": "good"}, "", line)
    with pytest.raises(UserError, match=said) as caught:
        read_corpus(path)
    assert caught.value.what.startswith(f"{path}, line 3")
    assert len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\n \n", b'{"text": ""}\n{"text": " \\n"}\n', b'{"messages": []}\n'])
def test_a_corpus_without_text_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match="the corpus has no text"):
        read_corpus(path)


@pytest.mark.parametrize(
    ("content", "said"), [(b"\xff\xfea\0", "not UTF-8"), (b"a\0b", "a zero byte"), (b"\x93NUMPY", "not UTF-8")]
)
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_binary_files_are_refused(tmp_path: Path, content: bytes, said: str, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=said):
        read_corpus(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.jsonl")
    for path in (tmp_path / "absent.jsonl", tmp_path, tmp_path / "fifo.jsonl", Path("/dev/zero"), Path("a\0b.jsonl")):
        with pytest.raises(UserError, match="cannot be read"):
            read_corpus(path)


def test_plain_text_under_another_name_is_refused_with_advice(tmp_path: Path) -> None:
    path = corpus(tmp_path, "Once upon a time", name="story")
    with pytest.raises(UserError, match=r"line 1: not JSON .*a plain text needs the name \*\.txt"):
        read_corpus(path)
