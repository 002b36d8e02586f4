from __future__ import annotations

import io
import json

import msgspec
import pytest
from rich.cells import cell_len

from moe_watch.commands.app import INTERRUPTED, run
from moe_watch.routing.events import State, to_json
from tests.sessions.kit import HEADER
from tests.sessions.made_sessions import made_tokens, with_chunks, write_session


class Terminal(io.StringIO):
    """Standard input that is a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr("platformdirs.user_data_path", lambda *_, **__: tmp_path)
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *_, **__: tmp_path / "cache")
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    (tmp_path / "sessions").mkdir()
    return tmp_path / "sessions"


@pytest.fixture
def answer(monkeypatch):
    return lambda text: monkeypatch.setattr("sys.stdin", Terminal(text))


def said(capsys, *arguments, status=0):
    assert run(["sessions", *arguments]) == status
    return capsys.readouterr()


def complaint(capsys, *arguments):
    shown = said(capsys, *arguments, status=2)
    assert shown.out == ""
    (line,) = shown.err.splitlines()
    return line


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_no_sessions_is_said(capsys, folder):
    assert said(capsys).out == f"no sessions in {folder}\n"


def test_the_list_has_what_the_columns_say(capsys, folder):
    write_session(folder / "run.moe.jsonl", 1200)
    (folder / "bad.moe.jsonl").write_bytes(b"x\n")
    heading, *lines = said(capsys).out.splitlines()
    assert heading.split() == ["NAME", "MODEL", "DATE", "(UTC)", "TOKENS", "SIZE", "HALF-LIFE", "STATE"]
    (run_line,) = (line for line in lines if line.startswith("run "))
    for part in ("made/up model", "2026-11-20 09:00", "1,200", " KB", "stable: ", "whole (length)"):
        assert part in run_line
    (bad_line,) = (line for line in lines if line.startswith("bad "))
    assert "unreadable: " in bad_line
    assert " 0 " not in bad_line.replace("2 B", "")


def test_a_run_that_an_error_ended_is_not_listed_as_whole(capsys, folder):
    error = State(state="error", i=30, t=1.0, message="moe-watch itself failed: ValueError: no")
    events = with_chunks(HEADER, [*made_tokens(30), error])
    (folder / "run.moe.jsonl").write_bytes(b"".join(to_json(event) + b"\n" for event in events))
    assert "failed (moe-watch itself failed: ValueError: no)" in said(capsys).out
    assert json.loads(said(capsys, "--json").out)["sessions"][0]["condition"] == "failed"
    assert "state      failed (moe-watch itself" in said(capsys, "show", "run").out


def test_json_lists_every_file(capsys, folder):
    path = write_session(folder / "run.moe.jsonl", 30)
    (folder / "bad.moe.jsonl").write_bytes(b"x\n")
    shown = said(capsys, "--json")
    found = {entry["name"]: entry for entry in json.loads(shown.out)["sessions"]}
    assert found["run"]["bytes"] == path.stat().st_size
    assert (found["run"]["tokens"], found["run"]["condition"]) == (30, "whole")
    assert found["bad"]["condition"] == "unreadable"
    assert "tokens" not in found["bad"]


def test_another_folder_may_be_named(capsys, folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    write_session(tmp_path / "elsewhere/there.moe.jsonl", 5)
    write_session(folder / "here.moe.jsonl", 5)
    assert "there" in (out := said(capsys, "--folder", str(tmp_path / "elsewhere")).out)
    assert "here.moe" not in out
    assert "made/up model" in said(capsys, "--folder", str(tmp_path / "elsewhere"), "show", "there").out


def test_show_looks_into_one(capsys, folder):
    write_session(folder / "run.moe.jsonl", 30)
    out = said(capsys, "show", "run").out
    for part in (
        "3 layers × 5 experts, top-2",
        "script 1, none",
        "30 tokens, 7 chunks",
        "seed 7",
        "prompt     def",
        " t29",
    ):
        assert part in out
    found = json.loads(said(capsys, "show", "run", "--json").out)
    assert (found["prompt"], found["text"][:6]) == ("def", " t0 t1")
    assert "no such session" in complaint(capsys, "show", "walk")
    (folder / "bad.moe.jsonl").write_bytes(b"x\n")
    assert "not a moe-watch session" in complaint(capsys, "show", "bad")


def test_hostile_text_is_shown_and_not_obeyed(capsys, folder):
    model = msgspec.structs.replace(HEADER.model, name="\x1b[2Jmodel\n[bold]")
    header = msgspec.structs.replace(HEADER, model=model, prompt="\x1b]0;x\x07", created="\x1b[31m")
    write_session(folder / "\x1b[31mrun.moe.jsonl", 5, header=header)
    for arguments in ([], ["show", "\x1b[31mrun"]):
        out = said(capsys, *arguments).out
        assert "\x1b" not in out
        assert "␛[2Jmodel␊[bold]" in out


def test_rename_keeps_other_files(capsys, folder):
    write_session(folder / "a.moe.jsonl", 5)
    write_session(folder / "b.moe.jsonl", 5)
    assert "exists already" in complaint(capsys, "rename", "a", "b")
    assert said(capsys, "rename", "a", "c").out == "a.moe.jsonl is now c.moe.jsonl\n"
    assert files(folder) == ["b.moe.jsonl", "c.moe.jsonl"]


def test_delete_asks_and_takes_no_for_an_answer(capsys, folder, answer):
    write_session(folder / "a.moe.jsonl", 5)
    answer("n\n")
    shown = said(capsys, "delete", "a", status=INTERRUPTED)
    assert "Delete 1 session, " in shown.err
    assert files(folder) == ["a.moe.jsonl"]
    answer("y\n")
    assert "deleted 1 session" in said(capsys, "delete", "a").out
    assert files(folder) == []


def test_delete_without_a_person_needs_to_be_told(capsys, folder):
    for name in ("a", "b"):
        write_session(folder / f"{name}.moe.jsonl", 5)
    assert "no terminal to confirm the deletion of 2 sessions" in complaint(capsys, "delete", "a", "b")
    assert "no such session" in complaint(capsys, "delete", "a", "x", "--yes")
    assert files(folder) == ["a.moe.jsonl", "b.moe.jsonl"]
    assert "deleted 2 sessions" in said(capsys, "delete", "a", "b", "a", "--yes").out
    assert files(folder) == []


def test_prune_asks_too(capsys, folder, answer):
    for name in ("a", "b", "c"):
        write_session(folder / f"{name}.moe.jsonl", 5)
    dry = said(capsys, "prune", "--keep", "1", "--dry-run").out
    assert "would delete 2 sessions" in dry
    assert "add --yes" in complaint(capsys, "prune", "--keep", "1")
    answer("n\n")
    said(capsys, "prune", "--keep", "1", status=INTERRUPTED)
    assert len(files(folder)) == 3
    said(capsys, "prune", "--keep", "1", "--yes")
    assert len(files(folder)) == 1
    assert said(capsys, "prune", "--keep", "1").out == "nothing to delete\n"
    assert "--keep is 'all'" in complaint(capsys, "prune", "--keep", "all")


@pytest.mark.parametrize("command", [["delete", "{}", "--yes"], ["rename", "{}", "other"], ["show", "{}"]])
@pytest.mark.parametrize("name", ["notes.txt", "thesis", "{here}/notes.txt", "./thesis", "hidden"])
def test_only_sessions_of_the_folder_are_touched(capsys, folder, tmp_path, monkeypatch, command, name):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    for path in (here / "notes.txt", here / "thesis", folder / "notes.txt", folder / ".hidden.moe.jsonl"):
        path.write_text("precious")
    named = name.format(here=here)
    complaint(capsys, *(part.format(named) for part in command))
    assert files(here) == ["notes.txt", "thesis"]
    assert files(folder) == [".hidden.moe.jsonl", "notes.txt"]


@pytest.mark.parametrize("name", ["first", "first.moe.jsonl"])
def test_a_session_is_meant_and_not_a_file_of_its_name_that_is_here(capsys, folder, tmp_path, monkeypatch, name):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    (here / name).write_text("thesis")
    write_session(folder / "first.moe.jsonl", 5)
    assert "made/up model" in said(capsys, "show", name).out
    assert "deleted 1 session" in said(capsys, "delete", name, "--yes").out
    assert files(folder) == []
    assert (here / name).read_text() == "thesis"


def test_columns_keep_their_place_beside_wide_characters(capsys, folder):
    write_session(folder / "a.moe.jsonl", 5)
    write_session(folder / "模型.moe.jsonl", 5)
    starts = {cell_len(line[: line.index("made/up")]) for line in said(capsys).out.splitlines()[1:]}
    assert len(starts) == 1


def test_a_file_that_is_only_named_as_a_session_is_not_deleted(capsys, folder):
    (folder / "junk.moe.jsonl").write_text("notsession")
    assert "junk.moe.jsonl is not a session" in complaint(capsys, "delete", "junk", "--yes")
    assert said(capsys, "prune", "--keep", "0", "--yes").out == "nothing to delete\n"
    assert files(folder) == ["junk.moe.jsonl"]
