"""Output of commands for a multi-part session."""

from __future__ import annotations

import io
import json

import pytest

from moe_watch.commands.app import run
from tests.sessions.continued import LITTLE_ROOM, MEASURED, TOKENS, copied, in_words, lost_chunks, part, record
from tests.sessions.recording.test_durability import linux

pytestmark = linux


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    return record(tmp_path_factory.mktemp("joined"), full=True)


@pytest.fixture(scope="module")
def lossy(tmp_path_factory):
    return record(tmp_path_factory.mktemp("lossy"), full=True, room=LITTLE_ROOM)


@pytest.fixture
def first(recorded, tmp_path, monkeypatch):
    """Return the first of three files, in a separate data directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("platformdirs.user_data_path", lambda *_, **__: tmp_path)
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *_, **__: tmp_path / "cache")
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    return copied(recorded, tmp_path / "sessions")


def said(capsys, *arguments, status=0):
    assert run(list(arguments)) == status
    return capsys.readouterr()


def names(first):
    """Return the names of the three files in lists."""
    return [path.name.removesuffix(".moe.jsonl") for path in (first, part(first, 2), part(first, 3))]


@pytest.mark.parametrize("command", ["fit", "export", "compare"])
def test_one_line_on_standard_error_says_how_many_parts_were_read(capsys, first, command):
    further = {"fit": [], "export": ["--to", "csv"], "compare": [str(part(first, 3))]}[command]
    shown = said(capsys, command, str(first), *further)
    line = f"moe-watch: {first}: 3 files are read as one session, up to {part(first, 3).name}"
    assert shown.err.splitlines()[0] == line
    assert len(shown.err.splitlines()) == 1 + (command == "compare")


def test_json_stays_one_object_on_standard_output(capsys, first):
    assert json.loads(said(capsys, "fit", str(first), "--json").out)["chunks"] == len(MEASURED)
    found = json.loads(said(capsys, "export", str(first), "--to", "npz", "--json").out)
    assert found["rows"]["tokens"] == TOKENS
    assert "3 files" in found["warnings"][0]


def test_a_fit_says_which_chunks_it_does_not_have(capsys, lossy):
    lines = said(capsys, "fit", str(lossy)).err.splitlines()
    assert len(lines) == 4
    assert f"chunks {in_words(lost_chunks(lossy))} are in no file: the curve is fitted around them" in lines[-1]


class TestVerify:
    def test_each_file_and_then_all_together(self, capsys, first):
        lines = said(capsys, "verify", str(first)).out.splitlines()
        verdicts = [line for line in lines if not line.startswith("  ")]
        for path, line in zip((first, part(first, 2), part(first, 3)), verdicts, strict=False):
            assert line.startswith(f"{path}: fine (")
        assert verdicts[3:] == [
            f"the run in {first}: fine (with 2 more, {TOKENS} tokens)",
            "3 of 3 files are fine",
        ]

    def test_a_missing_part_is_no_fault_of_any_file(self, capsys, first):
        part(first, 2).unlink()
        out = said(capsys, "verify", str(first), status=1).out
        assert f"the run in {first}: 1 kind of fault (with 1 more, 230 tokens)" in out
        assert f"  missing tokens: tokens 100 to 229 are missing before {part(first, 3).name}, and 129 more" in out
        assert "2 of 2 files are fine" in out

    def test_json(self, capsys, first):
        first.unlink()
        found = json.loads(said(capsys, "verify", str(part(first, 2)), "--json", status=1).out)
        assert [each["status"] for each in found["files"]] == [0]
        (together,) = found["runs"]
        assert (together["status"], together["findings"][0]["check"]) == (1, "missing file")


class TestSessions:
    def test_files_of_a_run_stand_together_and_say_so(self, capsys, first):
        heading, *lines = said(capsys, "sessions").out.splitlines()
        assert [line.split()[0] for line in lines] == names(first)
        states = [line[heading.index("STATE") :] for line in lines]
        assert states == [
            f"continues in {names(first)[1]}",
            f"continues in {names(first)[2]}, part of {first.name}",
            f"whole (length), part of {first.name}",
        ]
        assert all("n/a: in 3 files, `fit` joins them" in line for line in lines)

    def test_a_part_without_its_first_file_says_so(self, capsys, first):
        first.unlink()
        (line,) = (line for line in said(capsys, "sessions").out.splitlines() if line.startswith(names(first)[1]))
        assert line.endswith(f"continues in {names(first)[2]}, part of {first.name}, which is missing")

    def test_show_names_all_of_them(self, capsys, first):
        lines = said(capsys, "sessions", "show", names(first)[0]).out.splitlines()
        assert f"run        {', '.join(names(first))}" in lines
        found = json.loads(said(capsys, "sessions", "show", names(first)[1], "--json").out)
        assert found["run"] == first.name

    @pytest.mark.parametrize("at", [0, 1, 2])
    def test_none_is_deleted_or_renamed_without_the_others(self, capsys, first, at):
        before = sorted(first.parent.iterdir())
        name = names(first)[at]
        line = said(capsys, "sessions", "delete", name, "--yes", status=2).err
        together = f"moe-watch: {', '.join(names(first))} are one session"
        assert line == f"{together} and can only be deleted together: name all of them\n"
        line = said(capsys, "sessions", "rename", name, "other", status=2).err
        assert line == f"{together} and refer to each other by name: keep their names\n"
        assert sorted(first.parent.iterdir()) == before

    def test_all_of_them_are_deleted(self, capsys, first):
        assert "deleted 3 sessions" in said(capsys, "sessions", "delete", *names(first), "--yes").out
        assert list(first.parent.iterdir()) == []

    def test_what_is_left_of_an_earlier_run_does_not_hold_it_back(self, capsys, first):
        left = part(first, 3)
        left.write_bytes(left.read_bytes().replace(b'"created":"2026', b'"created":"2020', 1))
        said(capsys, "sessions", "delete", *names(first)[:2], "--yes")
        assert list(first.parent.iterdir()) == [left]
