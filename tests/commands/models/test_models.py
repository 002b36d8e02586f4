"""`moe-watch models`: the table, the JSON, and names that do not harm a terminal."""

from __future__ import annotations

import json
import pathlib
import shutil

import pytest
from rich.cells import cell_len

from moe_watch.commands.app import run
from moe_watch.commands.schema import printed_results
from tests.backends import llama_files
from tests.backends.conftest import home  # noqa: F401
from tests.backends.discovery import trees

CONTRACT = (
    *("name", "path", "engine", "architecture", "layers", "experts", "experts_per_token", "bytes", "quantization"),
    *("fits", "problem"),
)


@pytest.fixture(autouse=True)
def machine(
    home: pathlib.Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> pathlib.Path:
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *_, **__: home / "our-cache")
    monkeypatch.setattr("platformdirs.user_config_path", lambda *_, **__: home / "our-config")
    monkeypatch.setenv("COLUMNS", "120")
    return home


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return llama_files.write_gguf(tmp_path_factory.mktemp("m") / "m.gguf")


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert run(["models", *arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out.splitlines()


def test_only_pocket(capsys: pytest.CaptureFixture[str]) -> None:
    heading, pocket, *rest = printed(capsys)
    assert heading.split() == [
        "SIZE", "EXPERTS", "TOP", "QUANTIZATION", "FITS", "TEMPLATE", "ENGINE", "ARCHITECTURE", "NAME",
    ]  # fmt: skip
    assert pocket.split()[:6] == ["11.1", "MB", "6", "×", "8", "2"]
    assert any(line.startswith("no such folder: ~/.cache/huggingface/hub, ") for line in rest)
    assert rest[-1] == "watch one: `moe-watch watch NAME`"


@pytest.mark.parametrize("columns", [80, 120])
def test_lines_fit_the_terminal(
    capsys: pytest.CaptureFixture[str], machine: pathlib.Path, model: pathlib.Path, columns: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("COLUMNS", str(columns))
    trees.hub_repository(machine / ".cache/huggingface/hub", "unsloth/Qwen3-30B-A3B", {"m-Q4_K_M.gguf": model})
    lines = printed(capsys)
    table = lines[: lines.index("")]
    assert max(map(cell_len, table)) <= columns
    assert table[2].endswith("  unsloth/Qwen3-30B-A3B:Q4_K_M")
    ends = {line.index("B  ") for line in table[1:]}
    assert len(ends) == 1, "sizes are right-aligned"


def test_broken_models_are_at_the_end(
    capsys: pytest.CaptureFixture[str], machine: pathlib.Path, model: pathlib.Path
) -> None:
    folder = machine / "given"
    folder.mkdir()
    (folder / "a.gguf").write_bytes(model.read_bytes()[:-1])
    shutil.copy(model, folder / "b.gguf")
    lines = printed(capsys, str(folder))
    at = lines.index("cannot be used:")
    assert lines[at + 1].startswith("  ~/given/a.gguf: is truncated: tensor")
    assert any(line.endswith("  ~/given/b.gguf") for line in lines[:at])


def test_hostile_names_are_shown_and_not_obeyed(
    capsys: pytest.CaptureFixture[str], machine: pathlib.Path, model: pathlib.Path
) -> None:
    folder = machine / "given"
    folder.mkdir()
    shutil.copy(model, folder / "\x1b[2J\nx\u202e.gguf")
    (folder / "\x1b]0;y\x07.gguf").write_bytes(b"GGUF")
    text = "\n".join(printed(capsys, str(folder)))
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "\u202e" not in text
    assert "␛[2J␊x" in text


def test_json_has_the_promised_keys(capsys: pytest.CaptureFixture[str], machine: pathlib.Path) -> None:
    assert run(["models", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (pocket,) = found["models"]
    assert set(CONTRACT) <= set(pocket)
    assert set(found) == set(printed_results()["models"].struct.__struct_fields__)


def test_the_folders_of_the_settings(
    capsys: pytest.CaptureFixture[str], machine: pathlib.Path, model: pathlib.Path
) -> None:
    (machine / "mine").mkdir()
    shutil.copy(model, machine / "mine")
    (machine / "our-config").mkdir()
    (machine / "our-config/settings.toml").write_text('[models]\nfolders = ["~/mine"]\n')
    assert any(line.endswith("  ~/mine/m.gguf") for line in printed(capsys))


def test_a_folder_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "./nowhere"]) == 2
    assert capsys.readouterr().err == "moe-watch: nowhere: no such folder: give a folder with models\n"
