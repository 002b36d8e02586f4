"""What a newcomer's first command downloads, and what it says to a Python that is too old."""

from __future__ import annotations

import os
import pathlib
import re
import stat
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
Packages = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def locked() -> Packages:
    """All versions of each package in uv.lock."""
    found: Packages = {}
    for package in tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))["package"]:
        found.setdefault(package["name"], []).append(package)
    return found


def reached(locked: Packages, first: Iterable[dict[str, Any]]) -> set[str]:
    """Names of everything that `first` needs, on any platform and with any extra asked for."""
    names: set[str] = set()
    waiting = list(first)
    while waiting:
        need = waiting.pop()
        for package in locked[need["name"]]:
            further = package.get("dependencies", []) if need["name"] not in names else []
            chosen = [package.get("optional-dependencies", {}).get(extra, []) for extra in need.get("extra", [])]
            waiting += [*further, *(dependency for part in chosen for dependency in part)]
        names.add(need["name"])
    return names


def project_needs(locked: Packages, *, extras: Iterable[str] = (), groups: Iterable[str] = ()) -> set[str]:
    (project,) = locked["moe-watch"]
    first = [*project["dependencies"]]
    first += [need for extra in extras for need in project["optional-dependencies"][extra]]
    first += [need for group in groups for need in project["dev-dependencies"][group]]
    return reached(locked, first)


def test_the_lock_file_knows_the_public_index_only() -> None:
    text = (ROOT / "uv.lock").read_text(encoding="utf-8")
    hosts = set(re.findall(r"https?://([^/\"]+)", text))
    assert hosts == {"pypi.org", "files.pythonhosted.org"}
    assert not re.search(r"file://|path = \"|url = \"/", text)


def test_nobody_downloads_torch_who_does_not_train(locked: Packages) -> None:
    everyone = project_needs(locked, extras=["mlx", "llama"], groups=["test", "lint"])
    assert {"numpy", "textual", "mlx", "llama-cpp-python", "pytest", "ruff"} <= everyone
    assert not [name for name in everyone if name == "torch" or name.startswith(("nvidia", "cuda", "triton"))]
    assert "torch" in project_needs(locked, extras=["train"])


def test_watching_needs_no_compiler(locked: Packages) -> None:
    source_only = [
        name
        for name in project_needs(locked, extras=["mlx"])
        if not all(package.get("wheels") for package in locked[name])
    ]
    assert source_only == []
    assert not locked["llama-cpp-python"][0].get("wheels"), "it has wheels now: `make watch` may install it too"


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(["make", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_an_old_python_is_refused_in_one_clear_line(tmp_path: pathlib.Path) -> None:
    old = tmp_path / "python3.9"
    disguise = "import sys; sys.version_info = (3, 9, 6); exec(sys.argv[1])"
    old.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{disguise}" "$2"\n', encoding="utf-8")
    old.chmod(old.stat().st_mode | stat.S_IXUSR)
    refused = make("check-python", f"PYTHON={old}")
    assert refused.returncode != 0
    assert refused.stderr.splitlines()[0].startswith(f"moe-watch needs Python 3.11 or newer, and {old} is 3.9.")
    assert make("check-python", f"PYTHON={sys.executable}").returncode == 0


def test_help_names_every_target_that_is_documented() -> None:
    listed = make("help").stdout
    for target in ("watch", "test", "lint", "bench", "pocket", "clean"):
        assert f"make {target} " in listed
