"""Fixtures of the commands about experts."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def data_directory(tmp_path, monkeypatch):
    """Have finished profiles and ablations stored in a directory of the test."""
    monkeypatch.setattr("platformdirs.user_data_path", lambda *_, **__: tmp_path / "data")
    return tmp_path / "data"
