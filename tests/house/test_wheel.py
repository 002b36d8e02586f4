"""The wheel holds the program and pocket, and nothing else."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
POCKET = {
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "pocket.gguf",
    "provenance.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("moe_watch-*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_pocket_is_in_the_wheel_byte_for_byte(wheel: zipfile.ZipFile) -> None:
    packed = {name.removeprefix("backends/pocket/") for name in wheel.namelist() if name.startswith("backends/pocket/")}
    assert packed == POCKET
    for name in POCKET:
        assert wheel.read(f"backends/pocket/{name}") == (ROOT / "backends" / "pocket" / name).read_bytes(), name


def test_every_module_is_in_the_wheel_and_no_test_is(wheel: zipfile.ZipFile) -> None:
    included = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]["targets"]
    tops = set(included["wheel"]["only-include"])
    modules = {path.relative_to(ROOT).as_posix() for top in tops for path in (ROOT / top).rglob("*.py")} | {
        "moe_watch.py"
    }
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert {name for name in packed if name.endswith(".py")} == modules
    assert {name.partition("/")[0] for name in packed} == tops
    assert not [name for name in packed if "test" in name.lower() or "__pycache__" in name]


def test_the_wheel_starts_moe_watch_and_states_its_licence(wheel: zipfile.ZipFile) -> None:
    (entry_points,) = (name for name in wheel.namelist() if name.endswith("/entry_points.txt"))
    (licence,) = (name for name in wheel.namelist() if name.endswith("/licenses/LICENSE"))
    assert "moe-watch = moe_watch:main" in wheel.read(entry_points).decode().splitlines()
    assert wheel.read(licence) == (ROOT / "LICENSE").read_bytes()
