"""Strings of a GGUF header are skipped in windows, to exactly the place where the next entry begins."""

from __future__ import annotations

import pathlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_watch.backends.model_files import gguf as reader
from moe_watch.backends.model_files.gguf import read_gguf
from moe_watch.routing.errors import UserError

TEXTS = st.one_of(
    st.binary(max_size=12),
    st.binary(max_size=40).map(lambda text: text + bytes(9)),  # zeros that look like the start of a string
    st.integers(0, 700).map(lambda length: b"x" * length),
    st.sampled_from([b"", b"\x01" + bytes(7), b"a" * 255, b"a" * 256, struct.pack("<Q", 5)]),
)


def string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def header(texts: list[bytes]) -> bytes:
    """A file with an array of strings, and one number after it."""
    array = struct.pack("<IIQ", 9, 8, len(texts)) + b"".join(map(string, texts))
    number = string(b"after") + struct.pack("<II", 4, 77)
    return b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + string(b"texts") + array + number


@given(texts=st.lists(TEXTS, max_size=60), window=st.sampled_from([8, 9, 64, 300, 1 << 18]))
def test_the_entry_after_an_array_is_found(
    texts: list[bytes], window: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "strings.gguf"
    path.write_bytes(header(texts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "WINDOW", window)
        patch.setattr(reader, "SKIPPED_SINGLY", 2)
        found = read_gguf(path, digests=False)
    assert found.metadata == {"texts": f"{len(texts)} items", "after": 77}


def test_a_long_vocabulary_is_skipped_in_windows(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few strings are skipped one by one, which is what takes time."""
    path = tmp_path / "m.gguf"
    path.write_bytes(header([f"token {number}".encode() for number in range(100_000)]))
    single = []
    skip = reader._Reader._skip

    def counted(self: reader._Reader, length: int) -> None:
        single.append(length)
        skip(self, length)

    monkeypatch.setattr(reader._Reader, "_skip", counted)
    assert read_gguf(path, digests=False).metadata["after"] == 77
    assert len(single) < 5_000


def test_digests_are_the_same_in_any_window(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(header([b"a" * (number % 300) for number in range(5_000)]))
    found = read_gguf(path)
    monkeypatch.setattr(reader, "WINDOW", 8)
    assert read_gguf(path) == found


def test_more_strings_than_any_vocabulary_has_are_refused(tmp_path: pathlib.Path) -> None:
    """A sparse file of zeros is an array of empty strings: to walk it would take hours."""
    path = tmp_path / "m.gguf"
    count = struct.pack("<Q", 1 << 40)
    start = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + string(b"texts") + struct.pack("<II", 9, 8) + count
    path.write_bytes(start)
    with path.open("r+b") as file:
        file.truncate(1 << 43)
    with pytest.raises(UserError, match="is corrupt: an array of 1,099,511,627,776 strings"):
        read_gguf(path)


def test_a_cut_array_is_truncated(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(header([b"token"] * 1_000)[:5_000])
    with pytest.raises(UserError, match="is truncated inside its header"):
        read_gguf(path, digests=False)
