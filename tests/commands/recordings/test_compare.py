"""`moe-watch compare`: the two engines agree; text, JSON, figure and bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from moe_watch.commands.app import run
from moe_watch.routing.events import Header, to_json
from tests.sessions.kit import HEADER, LAYERS, MODEL, tokens

LENGTH = 200
"""Tokens: ten warm-up and forty measured chunks."""

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def session(tmp_path: Path) -> Callable[..., str]:
    """Return a writer of sessions with made-up tokens."""

    def write(name: str, *, first: int = 0, length: int = LENGTH, header: Header = HEADER) -> str:
        made = (msgspec.structs.replace(token, i=at) for at, token in enumerate(tokens(length, first)))
        path = tmp_path / f"{name}.moe.jsonl"
        path.write_bytes(b"".join(to_json(event) + b"\n" for event in (header, *made)))
        return str(path)

    return write


def result(capsys: Capture, *arguments: str) -> dict[str, Any]:
    """Return the output of `compare … --json`, which is one line."""
    assert run(["compare", *arguments, "--json"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert len(shown.out.splitlines()) == 1
    found: dict[str, Any] = json.loads(shown.out)
    return found


def text(capsys: Capture, *arguments: str) -> str:
    assert run(["compare", *arguments]) == 0
    return capsys.readouterr().out


def complaint(capsys: Capture, *arguments: str) -> str:
    assert run(["compare", *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    (line,) = shown.err.splitlines()
    return line


@pytest.mark.model
def test_both_engines_agree_on_every_token_and_expert(tmp_path: Path, capsys: Capture) -> None:
    pytest.importorskip("llama_cpp", reason="the llama.cpp engine is not installed: pip install moe-watch[llama]")
    pytest.importorskip("mlx_lm", reason="the MLX engine is not installed: pip install moe-watch[mlx]")
    greedy = ("--prompt", "def parse(", "--temperature", "0", "--tokens", "40", "--seed", "1")
    files = []
    for backend in ("mlx", "llama.cpp"):
        files.append(str(tmp_path / f"{backend}.moe.jsonl"))
        assert run(["record", "pocket", "--backend", backend, *greedy, "--output", files[-1]]) == 0
    capsys.readouterr()
    said = text(capsys, *files)
    rows = 44 * 6 - 3  # llama.cpp computes the last layer of the four prompt tokens for the last one only
    assert "tokens: 44 are the same, all of them" in said
    assert f"expert sets equal: {rows} of {rows} rows (100 %)" in said
    assert f"top-1 equal: {rows} of {rows} rows (100 %)" in said
    assert f"order equal: {rows} of {rows} rows (100 %)" in said
    assert "not compared: 3 rows only in the first session" in said
    (pair,) = result(capsys, *files)["pairs"]
    routing = pair["agreement"]["routing"]
    assert (routing["rows"], routing["sets"], routing["top_1"], routing["order"]) == (rows, 1.0, 1.0, 1.0)
    assert routing["weight_difference"]["largest"] <= 1.001e-4


def test_the_sources_stand_side_by_side(capsys: Capture, session: Callable[..., str]) -> None:
    said = text(capsys, session("one"), session("other", first=500), session("third", first=900))
    rows = {line[:16].strip(): line[16:].split() for line in said.splitlines()[1:16]}
    assert rows["file"] == ["one.moe.jsonl", "other.moe.jsonl", "third.moe.jsonl"]
    assert rows["tokens"] == ["200", "generated"] * 3
    assert len(rows["verdict"]) == 3
    assert len(rows["router entropy"]) == 3
    assert "A and B" in said
    assert "A and C" in said
    assert "corrected for several pairs" in said
    assert "all 5,040 ways" in said


def test_where_tokens_differ_usage_is_shown_by_layer(capsys: Capture, session: Callable[..., str]) -> None:
    said = text(capsys, session("one"), session("other", first=500))
    assert "routing: n/a: the tokens differ from token 0 on: ' t0' and ' t500'" in said
    table = said.splitlines()[-LAYERS - 1 :]
    assert table[0].split() == ["layer", "usage", "JS", "rows", "rows"]
    assert [line.split()[0] for line in table[1:]] == [str(layer) for layer in range(LAYERS)]
    assert all(line.split()[2:] == ["200", "200"] for line in table[1:])


def test_other_shapes_are_said_and_the_rest_is_compared(capsys: Capture, session: Callable[..., str]) -> None:
    wider = msgspec.structs.replace(HEADER, model=msgspec.structs.replace(MODEL, experts=9))
    said = text(capsys, session("one"), session("other", header=wider))
    assert "routing: n/a: the models differ in shape" in said
    assert "usage, decode tokens: n/a: the models differ in layers or in the number of experts" in said
    assert "all 5,040 ways" in said


def test_all_but_not_quite_all_is_not_100_percent(capsys: Capture, session: Callable[..., str], tmp_path: Path) -> None:
    one = session("one", length=4000)
    lines = Path(one).read_bytes().splitlines()
    token = json.loads(lines[3000])
    token["experts"][:2] = token["experts"][1::-1]
    lines[3000] = json.dumps(token).encode()
    other = tmp_path / "other.moe.jsonl"
    other.write_bytes(b"\n".join(lines) + b"\n")
    said = text(capsys, one, str(other))
    assert "top-1 equal: 11,999 of 12,000 rows (99.9 %)" in said
    assert "expert sets equal: 12,000 of 12,000 rows (100 %)" in said
    assert "ties within the recording's unit (0.0001): 0 of 0 other sets, " in said


def test_a_figure(capsys: Capture, session: Callable[..., str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    files = (session("one"), session("two"), session("other", first=500))
    picture = tmp_path / "figure.svg"
    assert run(["compare", *files, "--figure", str(picture)]) == 0
    assert capsys.readouterr().err == f"the figure is {picture}\n"
    drawn = picture.read_bytes()
    assert b"<svg" in drawn
    assert complaint(capsys, *files, "--figure", str(picture)).endswith("exists: overwrite it with --force")
    assert run(["compare", *files, "--figure", str(picture), "--force"]) == 0
    assert picture.read_bytes() == drawn
    capsys.readouterr()
    assert "name it .png, .svg or .pdf" in complaint(capsys, *files, "--figure", str(tmp_path / "f.txt"))
    nowhere = tmp_path / "none" / "f.png"
    said = "cannot be written (No such file or directory): choose another place with --figure"
    assert complaint(capsys, *files, "--figure", str(nowhere)).endswith(said)


def test_bad_input_is_one_line(capsys: Capture, session: Callable[..., str], tmp_path: Path) -> None:
    one = session("one", length=8)
    empty = session("empty", length=0)
    (tmp_path / "text.txt").write_text("hello\nworld")
    assert complaint(capsys) == "moe-watch: no files to compare: give two or more"
    assert complaint(capsys, one) == "moe-watch: 1 file to compare: give two or more"
    assert "holds no token: give a session that got further" in complaint(capsys, one, empty)
    assert "not a measurement" in complaint(capsys, one, str(tmp_path))
    assert "no-such-file" in complaint(capsys, one, str(tmp_path / "no-such-file"))
    assert "text.txt" in complaint(capsys, one, str(tmp_path / "text.txt"))
    assert "no pressure mode called 'x'" in complaint(capsys, one, one, "--pressure", "x")


def test_a_torn_file_is_compared_and_the_warning_goes_to_standard_error(
    capsys: Capture, session: Callable[..., str]
) -> None:
    one, other = session("one", length=30), session("other", length=30)
    Path(other).write_bytes(Path(other).read_bytes()[:-30])
    assert run(["compare", one, other, "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["pairs"][0]["agreement"]["ended"] == "the second ends after 29 tokens"
    assert "the last line is cut off" in shown.err
