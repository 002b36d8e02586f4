"""Files that are replaced as a whole, or not at all."""

from __future__ import annotations

import stat

import pytest

from moe_watch.sessions.paths import replace_file


def test_a_file_is_replaced_and_its_folder_made(tmp_path):
    path = tmp_path / "new" / "file.json"
    replace_file(path, b"one")
    replace_file(path, b"two")
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["file.json"]


def test_nothing_is_left_beside_a_file_that_could_not_be_replaced(tmp_path):
    path = tmp_path / "file.json"
    path.mkdir()
    with pytest.raises(OSError, match="directory"):
        replace_file(path, b"new")
    assert [each.name for each in tmp_path.iterdir()] == ["file.json"]
