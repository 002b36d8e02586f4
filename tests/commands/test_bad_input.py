"""What a person gets wrong: one line on stderr that says what and what to do, status 2, nothing written."""

from __future__ import annotations

import pytest

from commands.app import run


def complaint(capsys, *arguments: str) -> str:
    """The one line that a command complains with."""
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    return line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--tokens", "0"], "--tokens is 0: generate at least 1"),
        (["--chunk-size", "0"], "--chunk-size is 0"),
        (["--temperature", "-1"], "--temperature is -1.0: use 0 or more"),
        (["--temperature", "nan"], "--temperature is nan"),
        (["--top-p", "0"], "--top-p is 0.0"),
        (["--top-k", "-1"], "--top-k is -1"),
        (["--seed", "-1"], "--seed is -1"),
        (["--seed", str(2**32)], "--seed is 4294967296"),
        (["--threads", "0"], "--threads is 0"),
        (["--perturb", "x"], "--perturb and --every go together"),
        (["--every", "3"], "--perturb and --every go together"),
        (["--prompt", "x", "--prompt-file", "y"], "--prompt and --prompt-file both given"),
        (["--prompt-file", "nowhere.txt"], "cannot read the prompt from nowhere.txt: No such file"),
        (["--backend", "torch"], "there is no backend called 'torch'"),
        (["./nowhere"], "./nowhere: no such file or folder"),
        (["no such model"], "there is no model called 'no such model'"),
        (["pocket", "--model", "other/model"], "two models given, 'pocket' and 'other/model'"),
        (["--tokens", "many"], "'many' is not a valid integer"),
        (["--frobnicate"], "--frobnicate"),
    ],
)
def test_record_says_what_is_wrong(capsys, arguments, said):
    assert said in complaint(capsys, "record", *arguments)


def test_an_existing_output_is_left_alone(capsys, tmp_path):
    output = tmp_path / "kept.moe.jsonl"
    output.write_text("precious")
    assert "exists already: choose another name, or replace it with --force" in complaint(
        capsys, "record", "-o", str(output), "--tokens", "5"
    )
    assert output.read_text() == "precious"


def test_a_prompt_that_is_not_text(capsys, tmp_path):
    (tmp_path / "p").write_bytes(b"abc\xff")
    assert "is not UTF-8 text (byte 3)" in complaint(capsys, "record", "--prompt-file", str(tmp_path / "p"))


@pytest.mark.parametrize("command", [["watch"], []])
def test_without_a_terminal_watch_names_record(capsys, command):
    assert "is not a terminal: use `moe-watch record`" in complaint(capsys, *command)


def test_replay_without_a_terminal_names_headless(capsys, golden_path):
    assert "is not a terminal: use --headless" in complaint(capsys, "replay", str(golden_path))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Missing argument 'FILE'"),
        (["nowhere.moe.jsonl", "--headless"], "nowhere.moe.jsonl"),
        (["x", "--speed", "100"], "--speed is 100: use 0.25 to 16, or 0 for no waiting"),
        (["x", "--json"], "--json without --headless: add --headless"),
    ],
)
def test_replay_says_what_is_wrong(capsys, arguments, said):
    assert said in complaint(capsys, "replay", *arguments)


def test_an_unknown_command(capsys):
    assert "No such command 'wach'" in complaint(capsys, "wach")
