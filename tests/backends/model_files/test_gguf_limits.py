"""Headers whose numbers would take minutes or all memory, in sparse files that really have such a size."""

from __future__ import annotations

import struct
import time
from pathlib import Path

import pytest

from moe_watch.backends.model_files.gguf import read_gguf
from moe_watch.routing.errors import UserError

STRING, ARRAY, BYTE, LARGE = 8, 9, 0, 250_000_000_000


def _key(name: bytes) -> bytes:
    return struct.pack("<Q", len(name)) + name


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (struct.pack("<QQ", 0, 10**9), "a header with 1,000,000,000 metadata entries"),
        (struct.pack("<QQ", 10**9, 0), "a header with 1,000,000,000 tensors"),
        (struct.pack("<QQQ", 0, 1, LARGE), "a header of more than 256,000,000 bytes"),
        (struct.pack("<QQ", 0, 1) + _key(b"a") + struct.pack("<IQ", STRING, LARGE), "a header of more than"),
        (struct.pack("<QQ", 0, 1) + _key(b"a") + struct.pack("<IIQ", ARRAY, BYTE, LARGE), "a header of more than"),
    ],
    ids=["entries", "tensors", "key", "text", "array"],
)
def test_a_sparse_file_of_300_gb_is_corrupt_at_once(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "sparse.gguf"
    with path.open("wb") as file:
        file.write(b"GGUF" + struct.pack("<I", 3) + content)
        file.truncate(300_000_000_000)
    start = time.monotonic()
    with pytest.raises(UserError, match=reason):
        read_gguf(path)
    assert time.monotonic() - start < 5
