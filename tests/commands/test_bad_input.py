"""Bad usage and input: one line on stderr with the error and advice, status 2, nothing written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from moe_watch.commands.app import cli, run
from moe_watch.commands.options import Count, text_of


def complaint(capsys, *arguments: str) -> str:
    """Return the one line on stderr."""
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
        (["--temperature", "-1"], "--temperature is -1.0: use 0 up to 1000000"),
        (["--temperature", "nan"], "--temperature is nan"),
        (["--temperature", "inf"], "--temperature is inf: use 0 up to 1000000"),
        (["--temperature", "1e308"], "--temperature is 1e+308: use 0 up to 1000000"),
        (["--top-p", "0"], "--top-p is 0.0"),
        (["--top-k", "-1"], "--top-k is -1"),
        (["--seed", "-1"], "--seed is -1"),
        (["--seed", str(2**32)], "--seed is 4294967296"),
        (["--threads", "0"], "--threads is 0"),
        (["--threads", "2", "--backend", "mlx"], "the mlx backend does not support --threads: leave it out"),
        (["--mlock", "--no-mmap", "--backend", "mlx"], "the mlx backend does not support --mmap or --mlock"),
        (["--context", "0"], "--context is 0: use at least 1 token"),
        (["--gpu-layers", "-2"], "--gpu-layers is -2: use 0 or more, or -1 for all"),
        (["--batch", "4", "--micro-batch", "8"], "--micro-batch is 8 and --batch 4"),
        (["--kv-type", "f8"], "--kv-type is 'f8': use one of f32, f16"),
        (["-ot", "exps"], "--override-tensor is 'exps': use PATTERN=BUFFER"),
        (["--teacher", "x", "--prompt", "y"], "--teacher and --prompt given"),
        (["--teacher", "x", "--prompt-file", __file__, "--tokens", "5"], "--teacher and --prompt and --tokens given"),
        (["--teacher", "x", "--perturb", "y", "--every", "1"], "--teacher and --perturb given"),
        (["--perturb", "x"], "--perturb and --every go together"),
        (["--every", "3"], "--perturb and --every go together"),
        (["--perturb", "x", "--every", "-1"], "--every is -1: use at least 1 chunk"),
        (["--perturb", "", "--every", "3"], "--perturb is empty: give the text"),
        (["--prompt", "x", "--prompt-file", "y"], "--prompt and --prompt-file both given"),
        (["--prompt-file", "nowhere.txt"], "cannot read the prompt from nowhere.txt: No such file"),
        (["--backend", "torch"], "there is no backend called 'torch'"),
        (["./nowhere"], "./nowhere: no such file or folder"),
        (["no such model"], "there is no model called 'no such model'"),
        (["pocket", "--model", "other/model"], "two models given, 'pocket' and 'other/model'"),
        (["--tokens", "many"], "'many' is not a valid integer"),
        (["--frobnicate"], "--frobnicate"),
        (["--output", ""], "--output names no file"),
        (["--output", "."], "--output names no file"),
        ([""], "there is no model called ''"),
    ],
)
def test_record_says_what_is_wrong(capsys, arguments, said):
    assert said in complaint(capsys, "record", *arguments)


def counts_of(name: str) -> list[str]:
    """Return the options of a command that take a count."""
    return [each.opts[-1] for each in cli.get_command(None, name).params if isinstance(each.type, Count)]


@pytest.mark.parametrize("command", ["record", "bench", "measure", "import"])
def test_numbers_that_nothing_can_hold(capsys, command, tmp_path):
    """A session with such a number in its header could not be read again."""
    options = counts_of(command)
    assert len(options) > 2
    needed = {"measure": ["--out", str(tmp_path / "new")], "import": ["some.csv"]}.get(command, [])
    for option in options:
        line = complaint(capsys, command, *needed, option, str(2**64))
        assert line == f"moe-watch: {option} is {2**64}: use {2**31 - 1} at most"
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_is_a_folder(capsys, tmp_path):
    line = complaint(capsys, "record", "--force", "--output", str(tmp_path))
    assert line == f"moe-watch: --output: {tmp_path} is a folder: give a file in it, as {tmp_path / 'run.moe.jsonl'}"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--runs", "0"], "--runs is 0: measure 1 to 10000"),
        (["--runs", "10001"], "--runs is 10001: measure 1 to 10000"),
        (["--runs", "3", "--seed", "4294967293"], "--seed is 4294967293: use 0 up to 4294967292, as each"),
        (["--chunks", "4"], "--chunks is 4: a fit needs at least 5"),
        (["--temperature", "inf"], "--temperature is inf: use 0 up to 1000000"),
    ],
)
def test_measure_says_what_is_wrong(capsys, tmp_path, arguments, said):
    assert said in complaint(capsys, "measure", "--out", str(tmp_path / "new"), *arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["record", "bench"])
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--context", "99999"], "--context is 99999: use at most 2,048 tokens, which the model supports"),
        (["-ot", "ffn_.*_exps=NOWHERE"], "--override-tensor: there is no buffer 'NOWHERE': use "),
        (["--kv-type", "q8_0", "-ot", "(=CPU"], "Mismatched '(' and ')' in regular expression"),
    ],
)
@pytest.mark.model
def test_what_only_the_engine_knows(capsys, command, arguments, said):
    assert said in complaint(capsys, command, "--backend", "llama.cpp", *arguments)


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


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="this system has no /dev/zero")
@pytest.mark.parametrize("option", [["record", "--prompt-file"], ["measure", "--out", "nowhere", "--prompts"]])
def test_a_prompt_without_an_end(capsys, option):
    line = complaint(capsys, *option, "/dev/zero")
    assert line == "moe-watch: /dev/zero is longer than 100,000,000 bytes: give a shorter text"


def test_the_mark_that_an_editor_puts_before_a_text_is_no_part_of_it(tmp_path):
    (tmp_path / "p").write_bytes(b"\xef\xbb\xbfdef \xc3\xa4")
    assert text_of(tmp_path / "p", "the prompt") == "def ä"


@pytest.mark.parametrize("command", [["watch"], []])
def test_without_a_terminal_watch_names_record(capsys, command):
    assert "is not a terminal: use `moe-watch record`" in complaint(capsys, *command)


def test_replay_without_a_terminal_names_headless(capsys, golden_path):
    assert "is not a terminal: use --headless" in complaint(capsys, "replay", str(golden_path))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Missing argument 'FILE'"),
        (["no/where.moe.jsonl", "--headless"], "no/where.moe.jsonl: no such file: check the path"),
        (["nowhere", "--headless"], ", and no such file here: `moe-watch sessions` lists them"),
        (["x", "--speed", "100"], "--speed is 100: use 0.25 to 16, or 0 for as fast as possible"),
        (["x", "--json"], "--json without --headless: add --headless"),
    ],
)
def test_replay_says_what_is_wrong(capsys, arguments, said):
    assert said in complaint(capsys, "replay", *arguments)


def test_an_unknown_command(capsys):
    assert "No such command 'wach'" in complaint(capsys, "wach")


def test_what_a_file_says_is_shown_and_not_obeyed(capsys, golden_path, tmp_path):
    lines = golden_path.read_text().splitlines()
    lines[0] = lines[0].replace('"name":"golden"', '"name":"g\\u001b]0;own\\u0007\\u202e"')
    hostile = tmp_path / "hostile.moe.jsonl"
    hostile.write_text("\n".join(lines) + "\n")
    for extra in ([], ["--json"]):
        assert run(["replay", str(hostile), "--headless", *extra]) == 0
        shown = capsys.readouterr()
        assert not {"\x1b", "\x07", "\u202e"} & set(shown.out + shown.err)
        assert "own" in shown.out


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_behind_standard_output(golden_path):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "moe_watch", "replay", str(golden_path), "--headless"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["moe-watch: the output cannot be written: No space left on device"]


def test_a_reader_that_has_enough(golden_path):
    """As with `| head`: this is no failure, and no message is printed."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "moe_watch", "replay", str(golden_path), "--headless", "--json"],
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")
