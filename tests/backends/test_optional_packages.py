"""The install command is for the environment that lacks the extra."""

from __future__ import annotations

import shlex
import sys

import pytest

from moe_watch.backends.optional_packages import install_command


def test_an_environment_with_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if name == "pip" else None)
    assert shlex.split(install_command("llama")) == [sys.executable, "-m", "pip", "install", "moe-watch[llama]"]


def test_an_environment_of_uv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(sys, "executable", "/opt/my tools/python")
    assert shlex.split(install_command("mlx")) == [
        "uv", "pip", "install", "--python", "/opt/my tools/python", "moe-watch[mlx]"
    ]  # fmt: skip
