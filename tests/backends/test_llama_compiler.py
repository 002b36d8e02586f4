"""The compiled tap: made once, kept, and done without where it cannot be made."""

from __future__ import annotations

import pathlib
import stat
from typing import Any

import pytest

pytest.importorskip("llama_cpp", reason="the llama.cpp engine is not installed: pip install moe-watch[llama]")

from backends import llama_compiler
from backends.llama_compiler import CannotCompile, compiled_tap


@pytest.fixture
def cache(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """An empty cache folder."""
    monkeypatch.setattr(llama_compiler.platformdirs, "user_cache_path", lambda *_, **__: tmp_path / "cache")
    return tmp_path / "cache"


def script(folder: pathlib.Path, content: str) -> str:
    """A command that stands in for a compiler."""
    path = folder / "compiler"
    path.write_text(f"#!/bin/sh\n{content}\n")
    path.chmod(0o700)
    return str(path)


def test_it_is_compiled_once_and_kept(cache: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[Any] = []
    run = llama_compiler.subprocess.run

    def counting(*arguments: Any, **options: Any) -> Any:
        runs.append(arguments)
        return run(*arguments, **options)

    monkeypatch.setattr(llama_compiler.subprocess, "run", counting)
    first, second = compiled_tap(), compiled_tap()
    assert len(runs) == 1
    assert first.moe_watch_tap is not None
    assert second.moe_watch_tap is not None
    [kept] = cache.iterdir()
    assert kept.name.startswith("llama_tap-")
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700


def test_another_source_is_another_file(
    cache: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled_tap()
    changed = tmp_path / "changed.c"
    changed.write_text(llama_compiler.TAP.read_text() + "\n/* changed */\n")
    monkeypatch.setattr(llama_compiler, "TAP", changed)
    compiled_tap()
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("echo 'no licence' >&2; exit 1", "failed: no licence"),
        ("exit 3", "failed: exit status 3"),
        ('for last; do :; done; echo "int x" > /dev/null', "No such file or directory"),
        ("sleep 5", "did not finish in 0.2 s"),
    ],
    ids=["complains", "silent", "makes nothing", "hangs"],
)
def test_a_compiler_that_fails_is_named(
    content: str, says: str, cache: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama_compiler, "PATIENCE", 0.2 if "sleep" in content else 60.0)
    monkeypatch.setenv("CC", script(tmp_path, content))
    with pytest.raises(CannotCompile, match=says):
        compiled_tap()
    assert list(cache.iterdir()) == []


def test_what_cannot_be_loaded_is_not_used(
    cache: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", script(tmp_path, 'while [ "$1" != -o ]; do shift; done; echo junk > "$2"'))
    with pytest.raises(CannotCompile):
        compiled_tap()


def test_a_cache_that_cannot_be_written(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(llama_compiler.platformdirs, "user_cache_path", lambda *_, **__: tmp_path / "file" / "cache")
    with pytest.raises(CannotCompile, match="Not a directory"):
        compiled_tap()


def test_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler -m64")
    with pytest.raises(CannotCompile, match=r"no C compiler \(no-such-compiler\) was found"):
        compiled_tap()
