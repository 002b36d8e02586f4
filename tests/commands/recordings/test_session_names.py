"""Every command that takes a session takes its name in `moe-watch sessions`."""

from __future__ import annotations

import json
import shlex

import pytest

import moe_watch
from moe_watch.commands.app import run
from moe_watch.commands.watching.screen import replay_command
from moe_watch.routing.errors import UserError
from moe_watch.sessions.library.lookup import session_file
from tests.commands.watching.test_settings import settings

NAME = "pocket-20261120-1"


@pytest.fixture
def recorded(tmp_path, monkeypatch, golden_path):
    """Return a session in the data directory, with another working directory."""
    monkeypatch.setattr("platformdirs.user_data_path", lambda *_, **__: tmp_path)
    path = tmp_path / "sessions" / f"{NAME}.moe.jsonl"
    path.parent.mkdir()
    path.write_bytes(golden_path.read_bytes())
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return path


@pytest.mark.parametrize("name", [NAME, f"{NAME}.moe.jsonl"])
def test_replay_by_name(capsys, recorded, name):
    assert run(["replay", name, "--headless", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == "golden"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["fit", NAME], "no measured chunk"),
        (["verify", NAME], f"{NAME}.moe.jsonl: "),
        (["compare", NAME, NAME], "tokens: 9 are the same, all of them"),
        (["export", NAME, "--to", "csv", "--output", "tables"], "in tables"),
        (["verify", NAME, "--salvage", "copy"], "no line was left out"),
    ],
    ids=["fit", "verify", "compare", "export", "salvage"],
)
def test_every_command_that_reads_sessions_takes_a_name(capsys, recorded, command, said):
    run(command)
    shown = capsys.readouterr()
    assert said in shown.out + shown.err
    assert "no such" not in shown.err


def test_a_notebook_takes_a_name(recorded):
    assert len(moe_watch.open(NAME)) == 9
    with pytest.raises(UserError, match=r"nowhere: no such session in .*, and no such file here"):
        moe_watch.open("nowhere")


def test_one_name_of_nothing_keeps_no_other_from_being_judged(capsys, recorded):
    assert run(["verify", "nowhere", NAME]) == 2
    shown = capsys.readouterr()
    assert "nowhere: " in shown.err
    assert f"{NAME}.moe.jsonl: " in shown.out


def test_a_teacher_by_name(recorded):
    assert settings("--teacher", NAME).spec.teacher == settings("--teacher", str(recorded)).spec.teacher
    assert settings("--teacher", NAME).spec.teacher is not None


@pytest.mark.parametrize("is_known", [True, False], ids=["on the path", "beside Python only"])
def test_what_to_type_to_see_it_again(capsys, recorded, tmp_path, monkeypatch, is_known):
    (tmp_path / "moe-watch").touch()
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}" if is_known else None)
    program = "moe-watch" if is_known else str(tmp_path / "moe-watch")
    assert shlex.split(replay_command(recorded)) == [program, "replay", NAME]
    assert shlex.split(replay_command(tmp_path / "a b.moe.jsonl")) == [
        program,
        "replay",
        str(tmp_path / "a b.moe.jsonl"),
    ]


def test_a_file_that_is_here_comes_first(recorded, tmp_path):
    here = tmp_path / "elsewhere" / NAME
    here.write_bytes(b"")
    assert session_file(here.relative_to(tmp_path / "elsewhere")).absolute() == here


def test_a_path_is_no_name(recorded, tmp_path):
    path = tmp_path / "elsewhere" / "nowhere.moe.jsonl"
    assert session_file(path) == path


def test_a_name_of_nothing(recorded):
    with pytest.raises(UserError, match=r"other: no such session in .*sessions, and no such file here: `moe-watch"):
        settings("--teacher", "other")
