from __future__ import annotations

import json

import numpy as np
import pytest

from moe_watch.commands.app import run
from moe_watch.sessions.paths import sessions_directory


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    monkeypatch.setattr("platformdirs.user_data_path", lambda *_, **__: tmp_path / "data")
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *_, **__: tmp_path / "cache")


@pytest.fixture
def dump(tmp_path):
    path = tmp_path / "dump.npz"
    np.savez(path, logical_count=np.full((2, 3, 4), 5))
    return str(path)


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("token,layer,expert_1\n0,0,1\n1,0,2\n2,0,1\n")
    return str(path)


def test_a_table_is_imported_listed_and_replayed(capsys, table):
    assert run(["import", table, "--experts", "4", "--name", "tiny/moe", "--prompt-tokens", "1"]) == 0
    shown = capsys.readouterr()
    assert "a table of routing: 1 layer × 4 experts, top-1, 3 tokens" in shown.out
    (path,) = sessions_directory().iterdir()
    assert f"recorded to {path}" in shown.out
    assert path.name.startswith("tiny-moe-")
    assert run(["sessions", "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)["sessions"]
    assert (entry["model"], entry["tokens"], entry["condition"], entry["ended"]) == ("tiny/moe", 3, "whole", "imported")
    assert entry["half_life"]["words"].startswith("pressure needs router entropy, router margin and ")
    assert run(["replay", str(path), "--headless", "--json"]) == 0
    shown = capsys.readouterr()
    summary = json.loads(shown.out)
    assert summary["tokens"] == {"prompt": 1, "injected": 0, "generated": 2}
    assert summary["usage"]["decode"]["counts"] == [[0, 1, 1, 0]]
    assert summary["router_entropy"] is None


def test_counts_say_that_they_are_no_tokens(capsys, dump, tmp_path):
    assert run(["import", dump, "--experts-per-token", "2", "-o", str(tmp_path / "here.moe.jsonl")]) == 0
    shown = capsys.readouterr()
    assert "counts over 20 tokens, and no tokens" in shown.out
    assert "does not separate prefill and decode" in shown.err
    assert (tmp_path / "here.moe.jsonl").is_file()


def test_json_is_one_object_on_standard_output(capsys, dump):
    assert run(["import", dump, "--experts-per-token", "2", "--phase", "decode", "--layers", "1-3", "--json"]) == 0
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert shown.err == ""
    assert (found["engine"], found["layers"], found["experts"], found["tokens"]) == ("SGLang", [1, 2, 3], 4, 0)
    assert found["warnings"] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "use --experts-per-token N"),
        (["--experts-per-token", "0"], "--experts-per-token is 0: use 1 or more"),
        (["--prompt-tokens", "-1"], "--prompt-tokens is -1: use 0 or more"),
        (["--choice", "-1"], "--choice is -1"),
        (["--layers", "x"], "--layers is 'x'"),
        (["--from", "gguf"], "'gguf' is not one of"),
        (["--experts-per-token", "2", "-o", "-"], "--output names no file"),
    ],
)
def test_bad_input_is_one_line(capsys, dump, arguments, message):
    assert run(["import", dump, *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    (line,) = shown.err.splitlines()
    assert message in line
    assert not sessions_directory().exists()
