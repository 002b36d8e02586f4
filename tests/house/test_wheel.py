"""The wheel holds the program and pocket under one top-level name, and works wherever a user stands."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import tarfile
import zipfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGES = ("routing", "vitals", "backends", "sessions", "tui", "commands")
POCKET = {
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "pocket.gguf",
    "provenance.json",
    "tokenizer.json",
    "tokenizer_config.json",
}
POCKET_FOLDER = "moe_watch/backends/pocket/"


def build(target: str, source: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """Build an sdist or a wheel of `source` into `folder`, and return its path."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(folder)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("moe_watch-*")
    return path


@pytest.fixture(scope="module")
def wheel_path(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def wheel(wheel_path: pathlib.Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(wheel_path)


def test_pocket_is_in_the_wheel_byte_for_byte(wheel: zipfile.ZipFile) -> None:
    packed = {name.removeprefix(POCKET_FOLDER) for name in wheel.namelist() if name.startswith(POCKET_FOLDER)}
    assert packed == POCKET
    for name in POCKET:
        assert wheel.read(POCKET_FOLDER + name) == (ROOT / "backends" / "pocket" / name).read_bytes(), name


def test_every_module_is_in_the_wheel_and_no_test_is(wheel: zipfile.ZipFile) -> None:
    sources = [path for package in PACKAGES for suffix in ("py", "c") for path in (ROOT / package).rglob(f"*.{suffix}")]
    expected = {f"moe_watch/{path.relative_to(ROOT).as_posix()}" for path in sources}
    expected |= {f"moe_watch/{path.name}" for path in (ROOT / "moe_watch").glob("*.py")}
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert {name for name in packed if name.endswith((".py", ".c"))} == expected
    assert not [name for name in packed if "test" in name.lower() or "__pycache__" in name]


def test_the_wheel_has_one_top_level_name(wheel: zipfile.ZipFile) -> None:
    tops = {name.partition("/")[0] for name in wheel.namelist() if ".dist-info/" not in name}
    assert tops == {"moe_watch"}


def test_the_sdist_gives_the_same_wheel(wheel: zipfile.ZipFile, tmp_path: pathlib.Path) -> None:
    with tarfile.open(build("sdist", ROOT, tmp_path)) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (source,) = (tmp_path / "unpacked").iterdir()
    (tmp_path / "built").mkdir()
    again = zipfile.ZipFile(build("wheel", source, tmp_path / "built"))
    assert set(again.namelist()) == set(wheel.namelist())
    for name in wheel.namelist():
        assert again.read(name) == wheel.read(name), name


def test_the_wheel_starts_moe_watch_and_states_its_licence(wheel: zipfile.ZipFile) -> None:
    (entry_points,) = (name for name in wheel.namelist() if name.endswith("/entry_points.txt"))
    (licence,) = (name for name in wheel.namelist() if name.endswith("/licenses/LICENSE"))
    assert "moe-watch = moe_watch:main" in wheel.read(entry_points).decode().splitlines()
    assert wheel.read(licence) == (ROOT / "LICENSE").read_bytes()


@pytest.mark.model
def test_the_wheel_works_in_a_folder_full_of_traps(wheel: zipfile.ZipFile, tmp_path: pathlib.Path) -> None:
    """A user's own modules are called as our packages are. Python puts their folder first on its search path."""
    site, home = tmp_path / "site", tmp_path / "home"
    wheel.extractall(site)
    home.mkdir()
    for number, package in enumerate((*PACKAGES, "benchmarks", "tests", "models")):
        trap = home / f"{package}.py" if number % 2 else home / package / "__init__.py"
        trap.parent.mkdir(exist_ok=True)
        trap.write_text(f"raise AssertionError('{package} of the user was imported')\n", encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(site), "HOME": str(home)}

    def python(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    python("-m", "moe_watch", "record", "pocket", "--tokens", "5", "--output", "run.moe.jsonl")
    python("-m", "moe_watch", "replay", "--headless", "run.moe.jsonl")
    found = python("-c", "import moe_watch; print(moe_watch.__file__, len(moe_watch.open('run.moe.jsonl').experts()))")
    path, tokens = found.split()
    assert pathlib.Path(path).is_relative_to(site)
    assert int(tokens) >= 5
