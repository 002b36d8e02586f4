from __future__ import annotations

import json

import pytest

from moe_watch.commands.app import run


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_export_says_what_it_wrote(capsys, golden_path, tmp_path):
    assert run(["export", str(golden_path), "--to", "csv"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert [line.split() for line in shown.out.splitlines()[:2]] == [["tokens", "9", "rows"], ["routing", "18", "rows"]]
    assert shown.out.splitlines()[-1] == "in golden-csv"
    assert len((tmp_path / "golden-csv/tokens.csv").read_text().splitlines()) == 11  # one token is a line's end


def test_json_is_one_object_on_standard_output(capsys, golden_path, tmp_path):
    torn = tmp_path / "torn.moe.jsonl"
    torn.write_bytes(golden_path.read_bytes()[:-20])
    assert run(["export", str(torn), "--to", "npz", "-o", "out", "--json"]) == 0
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert len(shown.out.splitlines()) == 1
    assert (found["output"], found["format"], found["rows"]["chunks"]) == ("out", "npz", 3)
    assert "cut off" in found["warnings"][0]
    assert "cut off" in shown.err


def test_one_table_goes_to_one_file(capsys, golden_path, tmp_path):
    assert run(["export", str(golden_path), "--to", "parquet", "--table", "usage", "-o", "deep/usage.parquet"]) == 0
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["usage.parquet"]
    assert "16 rows" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "csv", "--table", "nothing"], "no table named 'nothing'"),
        (["--to", "json", "--spreadsheet"], "--spreadsheet with --to json: it is for CSV"),
        (["--to", "excel"], "'excel' is not one of"),
        (["--to", "coli-usage", "--table", "usage"], "--table with --to coli-usage: it is one file"),
        (["--to", "coli-usage", "--spreadsheet"], "--spreadsheet with --to coli-usage"),
        (["--to", "json", "--phase", "decode"], "--phase with --to json: tables have a column for it"),
        (["--to", "coli-usage", "-o", "file"], "file: exists already"),
        (["--to", "coli-usage", "-o", "file/deeper"], "cannot be written"),
        (["--to", "coli-usage", "-o", "taken", "--force"], "taken: exists already"),
        ([], "Missing option '--to'"),
        (["--to", "csv", "-o", "taken"], "taken/tokens.csv: exists already"),
        (["--to", "csv", "-o", "file"], "cannot be written"),
    ],
)
def test_bad_input_is_one_line(capsys, golden_path, tmp_path, arguments, message):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/tokens.csv").write_text("mine")
    (tmp_path / "file").write_text("mine")
    assert run(["export", str(golden_path), *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    (line,) = shown.err.splitlines()
    assert message in line
    assert (tmp_path / "taken/tokens.csv").read_text() == (tmp_path / "file").read_text() == "mine"


def test_force_writes_over(capsys, golden_path, tmp_path):
    for _ in range(2):
        assert run(["export", str(golden_path), "--to", "json", "--force"]) == 0
    assert len(json.loads((tmp_path / "golden-json/tokens.json").read_text())) == 9


def test_other_tools_get_one_file(capsys, golden_path, tmp_path):
    for form in ("layer-expert", "layer-expert-count", "coli-usage"):
        assert run(["export", str(golden_path), "--to", form, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["format"], found["warnings"]) == (form, [])
        assert len((tmp_path / found["output"]).read_text().splitlines()) == found["rows"][form] + 1
    assert (tmp_path / "golden.coli_usage").stat().st_mode & 0o777 == 0o600


def test_hostile_names_are_shown_and_not_obeyed(capsys, golden_path, tmp_path):
    path = tmp_path / "\x1b[31mred.moe.jsonl"
    path.write_bytes(golden_path.read_bytes())
    assert run(["export", str(path), "--to", "json"]) == 0
    assert "\x1b" not in capsys.readouterr().out
