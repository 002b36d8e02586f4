"""Hostile text on the command line: what programs print and write has nothing in it that acts."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from moe_watch.commands.app import run as run_command
from moe_watch.routing.events import to_json
from tests.hostile.texts import SEEN, TEXTS, TOGETHER, acting, ending, header, run

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def nothing_of_this_machine(tmp_path_factory, monkeypatch):
    """Neither its recordings nor what is remembered of them."""
    for name in ("HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path_factory.mktemp("home")))


@pytest.fixture(params=TEXTS.values(), ids=TEXTS)
def text(request):
    return request.param


@pytest.fixture
def session(text, tmp_path):
    """A session of this text in a file of this name, as far as a file can have it."""
    path = tmp_path / f"{text.replace(chr(0), '').replace('/', '')[:40]}.moe.jsonl"
    events = [*run(text, tokens=40), ending(text, "finished", 42)]
    path.write_bytes(b"".join(to_json(event) + b"\n" for event in events))
    return path


def printed(capsys):
    """Both streams of a command, line by line."""
    captured = capsys.readouterr()
    for stream in captured:
        assert not acting(stream, allowed="\n"), stream
    return captured.out + captured.err


COMMANDS = {
    "replay": ("replay", "--headless"),
    "replay as JSON": ("replay", "--headless", "--json"),
    "verify": ("verify",),
    "verify as JSON": ("verify", "--json"),
    "fit": ("fit",),
    "compare": ("compare",),
    "sessions show": ("sessions", "show"),
    "export": ("export", "--to", "json", "--force", "--output", f"export-{SEEN}"),
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_what_is_said_of_a_file(command, session, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = [*command, str(session)]
    if command[0] == "compare":
        arguments.append(str(session))
    status = run_command(arguments)
    assert status in (0, 1, 2)
    assert SEEN in printed(capsys)


def test_what_is_said_of_a_folder(session, capsys):
    assert run_command(["sessions", "--folder", str(session.parent)]) == 0
    assert SEEN in printed(capsys)


@pytest.mark.skipif(sys.platform == "darwin", reason="file names there are UTF-8")
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_file_name_that_is_no_text(command, tmp_path, capsys, monkeypatch):
    """Half of a surrogate pair stands for a byte that is no UTF-8; neither can be printed."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / os.fsdecode(SEEN.encode() + b"\xff\x1b[2J.moe.jsonl")
    path.write_bytes(b"".join(to_json(event) + b"\n" for event in [*run("fine", 40), ending("fine", "finished", 42)]))
    assert run_command([*command, str(path), *([str(path)] if command[0] == "compare" else [])]) in (0, 1, 2)
    assert printed(capsys)


def test_what_is_said_of_a_copy(text, session, capsys):
    assert run_command(["verify", "--salvage", str(session.with_name(f"{session.name}-copy")), str(session)]) == 0
    assert SEEN in printed(capsys)


def test_what_is_said_of_a_file_that_is_not_there(text, capsys):
    assert run_command(["replay", "--headless", text.replace("\0", "")]) == 2
    assert SEEN in printed(capsys)


def test_what_is_said_of_a_line_that_cannot_be(text, session, capsys):
    with session.open("ab") as file:
        file.write(json.dumps({"event": text}).encode() + b"\n")
    assert run_command(["replay", "--headless", str(session)]) == 2
    assert SEEN in printed(capsys)


@pytest.mark.parametrize("option", ["--backend", "--model", "--seed", "--prompt-file", "--kv-type", "--stop"])
def test_what_is_said_of_an_option(text, option, capsys):
    assert run_command(["record", option, text.replace("\0", "")]) == 2
    assert printed(capsys)


def test_what_is_said_of_a_command_that_does_not_exist(text, capsys):
    assert run_command([text]) == 2
    assert SEEN in printed(capsys)


def test_bytes_that_reach_the_terminal(tmp_path):
    """The program itself, its output and its errors as they are."""
    path = tmp_path / "s.moe.jsonl"
    path.write_bytes(b"".join(to_json(event) + b"\n" for event in [*run(TOGETHER, 40), ending(TOGETHER, "error", 42)]))
    done = subprocess.run(
        [sys.executable, "-m", "moe_watch", "replay", "--headless", str(path)],
        cwd=ROOT,
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        check=False,
    )
    text = (done.stdout + done.stderr).decode()
    assert SEEN in text
    assert not acting(text, allowed="\n")


def test_an_export_holds_the_text_as_it_was_recorded(session, text, tmp_path):
    """Data are for programs: nothing is shown, and nothing is changed."""
    table = tmp_path / "tokens.csv"
    assert run_command(["export", "--to", "csv", "--table", "tokens", "--output", str(table), str(session)]) == 0
    with table.open(newline="") as file:
        rows = list(csv.DictReader(line.replace("\0", "\ue00f") for line in file))
    assert rows[0]["text"].replace("\ue00f", "\0") == text


def test_the_header_is_as_hostile_as_it_can_be():
    assert acting(header(TOGETHER).model.name)
