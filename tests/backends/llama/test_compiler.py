"""The compiled tap: compiled once, cached, and replaced by Python if it cannot be compiled."""

from __future__ import annotations

import ctypes
import os
import pathlib
import shutil
import stat
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("llama_cpp", reason="the llama.cpp engine is not installed: pip install moe-watch[llama]")

from moe_watch.backends.llama import compiler as llama_compiler
from moe_watch.backends.llama.compiler import CannotCompile, compiled_tap
from moe_watch.backends.system import code_cache
from tests.backends import llama_files


@pytest.fixture
def cache(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """An empty cache folder."""
    monkeypatch.setattr(llama_compiler.platformdirs, "user_cache_path", lambda *_, **__: tmp_path / "cache")
    return tmp_path / "cache"


def script(folder: pathlib.Path, content: str) -> str:
    """A command in place of a compiler."""
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
    assert kept.name.startswith("llama_callback-")
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


# -- files in the cache


Damage = Callable[[pathlib.Path], None]


def truncate(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes()[:2000])


def empty(path: pathlib.Path) -> None:
    path.write_bytes(b"")


def alter(path: pathlib.Path) -> None:
    """Same size, one bit."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def open_to_all(path: pathlib.Path) -> None:
    path.chmod(0o777)


def open_to_the_group(path: pathlib.Path) -> None:
    path.chmod(0o770)


def link(path: pathlib.Path) -> None:
    elsewhere = path.parent.parent / "elsewhere.so"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def pipe(path: pathlib.Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("damage", [truncate, empty, alter, open_to_all, open_to_the_group, link, pipe])
def test_a_library_that_does_not_fit_is_compiled_again(
    damage: Damage, cache: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled_tap()
    [kept] = cache.iterdir()
    whole = kept.read_bytes()
    damage(kept)
    loaded: list[str] = []
    monkeypatch.setattr(llama_compiler.ctypes, "CDLL", lambda name: loaded.append(name))
    compiled_tap()
    [again] = cache.iterdir()
    assert loaded == [str(again)]
    assert again.read_bytes() == whole
    assert stat.S_IMODE(again.lstat().st_mode) == 0o700
    assert stat.S_ISREG(again.lstat().st_mode)


def test_code_that_was_planted_is_not_run(cache: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """A library of the right name whose constructor leaves a trace, as another user could put it there."""
    compiled_tap()
    [kept] = cache.iterdir()
    source, trace = tmp_path / "planted.c", tmp_path / "trace"
    source.write_text(
        f'#include <stdio.h>\n__attribute__((constructor)) static void run(void) {{ fclose(fopen("{trace}", "w")); }}'
    )
    kept.unlink()
    copy = tmp_path / "planted.so"
    subprocess.run([*llama_compiler.compiler(), "-shared", "-fPIC", "-o", str(copy), str(source)], check=True)
    shutil.copy(copy, kept)
    assert compiled_tap().moe_watch_tap is not None
    assert not trace.exists()
    ctypes.CDLL(str(copy))
    assert trace.exists(), "it does leave one"


def test_what_another_user_owns_is_not_loaded(
    cache: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Load no file of another user: neither from that user's folder (nothing is stored there), nor from one's own."""
    compiled_tap()
    [kept] = cache.iterdir()
    loaded: list[str] = []
    monkeypatch.setattr(llama_compiler.ctypes, "CDLL", lambda name: loaded.append(name))
    monkeypatch.setattr(code_cache.os, "geteuid", lambda: cache.stat().st_uid + 1)
    compiled_tap()
    assert loaded
    assert not loaded[0].startswith(str(cache))
    assert not pathlib.Path(loaded[0]).exists()
    assert [*cache.iterdir()] == [kept]
    assert code_cache.find(cache, kept.name.rpartition("-")[0]) is None
    assert not kept.exists()


def test_a_folder_that_all_may_write_to_is_closed(cache: pathlib.Path) -> None:
    cache.mkdir()
    cache.chmod(0o777)
    compiled_tap()
    assert stat.S_IMODE(cache.stat().st_mode) == 0o755
    assert len([*cache.iterdir()]) == 1


def test_the_content_is_on_the_disk_before_the_name(cache: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that stops in between must not leave a name without its content."""
    done: list[tuple[str, bool]] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        done.append((kind, any(cache.glob("*.so"))))
        fsync(descriptor)

    monkeypatch.setattr(code_cache.os, "fsync", noted)
    compiled_tap()
    assert done == [("file", False), ("folder", True)]


def test_the_slow_callback_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    with llama_files.opening() as load_path:
        [warning] = load_path("pocket").warnings
    assert warning == ("routing is read by a callback in Python, slower: no C compiler (no-such-compiler) was found")
