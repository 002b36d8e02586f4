from __future__ import annotations

import os
import shlex

import msgspec
import pytest
import zstandard

from moe_watch.commands.app import run
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Continues, State, to_json
from moe_watch.sessions.fitting.file_fit import fit_file
from moe_watch.sessions.library.cache import LibraryCache
from moe_watch.sessions.library.housekeeping import delete_session, rename_session, require_whole_runs, to_prune
from moe_watch.sessions.library.listing import entry_of, find_session, list_sessions, preview
from moe_watch.sessions.library.scanning import scan
from tests.sessions.kit import HEADER, MODEL, make_token
from tests.sessions.made_sessions import ended, made_tokens, with_chunks, write_session

NOW = 1_800_000_000.0
DAY = 86_400.0


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sessions").mkdir()
    return tmp_path / "sessions"


@pytest.fixture
def cache(tmp_path):
    return lambda: LibraryCache(tmp_path / "cache" / "sessions.json")


def listed(folder):
    return list_sessions(folder, LibraryCache(None))


def aged(path, days):
    os.utime(path, (NOW - days * DAY, NOW - days * DAY))
    return path


def part_of(first, path):
    """A continuation file of another file's run."""
    header = msgspec.structs.replace(HEADER, continues=Continues(file=first.name, i=10))
    path.write_bytes(b"\n".join(map(to_json, [header, *map(make_token, range(10, 15)), ended(15)])) + b"\n")
    return path


# -- listing


def test_a_whole_session_is_told_with_its_facts(folder):
    path = write_session(folder / "run.moe.jsonl", 30)
    (entry,) = listed(folder)
    facts = entry.facts
    assert (entry.name, entry.path, entry.size) == ("run", path, path.stat().st_size)
    assert (facts.model, facts.backend, facts.created) == ("made/up model", "script", HEADER.created)
    assert (facts.layers, facts.experts, facts.experts_per_token) == (MODEL.layers, 5, 2)
    assert (facts.tokens, facts.end, facts.chunks) == (30, 30, 7)
    assert (entry.condition, facts.ended, entry.problem) == ("whole", "length", "")
    assert facts.half_life.verdict is None
    assert "no measured chunk" in facts.half_life.words


def test_half_life_is_that_of_the_fit_command(folder):
    path = write_session(folder / "long.moe.jsonl", 110)
    found, fit = scan(path).facts.half_life, fit_file(path).fit
    assert (found.verdict, found.half_life) == (fit.verdict, fit.half_life)


def test_each_condition_is_told(folder, golden_path):
    whole = golden_path.read_bytes()
    lines = whole.splitlines(keepends=True)
    files = {
        "whole": whole,
        "unfinished": b"".join(lines[:-1]),
        "torn": whole[:-20],
        "torn-token": b"".join(lines[:5]) + lines[5][:40],
        "damaged": b"".join([*lines[:4], b"garbage\n", *lines[4:]]),
        "alien": b"".join([*lines[:4], b'{"event":"dream"}\n', *lines[4:]]),
        "failed": b"".join(lines[:-1]) + to_json(State(state="error", i=9, t=1.0, message="no memory")) + b"\n",
        "empty": b"",
        "other": b"hello\n",
    }
    for name, content in files.items():
        (folder / f"{name}.moe.jsonl").write_bytes(content)
    found = {entry.name: (entry.condition, entry.problem) for entry in listed(folder)}
    assert found["whole"] == ("whole", "")
    assert found["failed"] == ("failed", "")
    assert found["unfinished"] == ("unfinished", "")
    assert found["torn"] == ("torn", "line 19 is cut off")
    assert found["torn-token"][0] == "torn"
    assert found["damaged"] == ("unreadable", "line 5: not JSON")
    assert found["alien"][0] == "unreadable"
    assert "line 5: not an event" in found["alien"][1]
    assert found["empty"][0] == found["other"][0] == "unreadable"
    assert "not a moe-watch session" in found["other"][1]


def test_a_torn_token_is_not_counted(folder, golden_path):
    lines = golden_path.read_bytes().splitlines(keepends=True)
    path = folder / "torn.moe.jsonl"
    path.write_bytes(b"".join(lines[:4]) + lines[4][:-30])
    found = scan(path)
    assert (found.condition, found.facts.tokens, found.facts.end) == ("torn", 3, 3)


def test_events_of_a_newer_minor_version_are_passed_over(folder, golden_path):
    lines = golden_path.read_bytes().replace(b'"schema_minor":4', b'"schema_minor":9').splitlines(keepends=True)
    path = folder / "newer.moe.jsonl"
    path.write_bytes(b"".join([*lines[:4], b'{"event":"dream"}\n', *lines[4:]]))
    assert (scan(path).condition, scan(path).facts.tokens) == ("whole", 9)


def test_tokens_of_another_writer_are_counted_too(folder, golden_path):
    lines = golden_path.read_bytes().splitlines()
    turned = [msgspec.json.encode(dict(reversed(msgspec.json.decode(line).items()))) for line in lines[1:]]
    path = folder / "turned.moe.jsonl"
    path.write_bytes(b"\n".join([lines[0], *turned]) + b"\n")
    assert scan(path) == scan(golden_path)


def test_compressed_sessions_are_listed_and_other_files_are_not(folder, golden_path):
    (folder / "packed.moe.jsonl.zst").write_bytes(zstandard.compress(golden_path.read_bytes()))
    (folder / ".hidden.moe.jsonl").write_bytes(golden_path.read_bytes())
    (folder / "notes.txt").write_text("x")
    (folder / "folder.moe.jsonl").mkdir()
    (folder / "dangling.moe.jsonl").symlink_to(folder / "nothing")
    (entry,) = listed(folder)
    assert (entry.name, entry.condition, entry.facts.tokens) == ("packed", "whole", 9)


def test_the_newest_comes_first_and_no_folder_is_no_session(folder, tmp_path):
    for days, name in ((3, "old"), (1, "new"), (2, "middle")):
        aged(write_session(folder / f"{name}.moe.jsonl", 5), days)
    assert [entry.name for entry in listed(folder)] == ["new", "middle", "old"]
    assert listed(tmp_path / "nowhere") == []
    with pytest.raises(UserError):
        listed(folder / "new.moe.jsonl")


def test_a_part_names_the_file_that_it_goes_on_with(folder):
    part_of(write_session(folder / "run.moe.jsonl", 10), folder / "run.2.moe.jsonl")
    by_name = {entry.name: entry for entry in listed(folder)}
    assert by_name["run.2"].facts.continues == "run.moe.jsonl"
    assert (by_name["run.2"].facts.tokens, by_name["run.2"].facts.end) == (5, 15)
    assert by_name["run.2"].run == by_name["run"].run


# -- the cache


def test_an_unchanged_file_is_scanned_once(folder, cache, monkeypatch):
    scanned = []
    monkeypatch.setattr("moe_watch.sessions.library.listing.scan", lambda path: scanned.append(path.name) or scan(path))
    first = write_session(folder / "a.moe.jsonl", 5)
    write_session(folder / "b.moe.jsonl", 5)
    assert list_sessions(folder, cache()) == list_sessions(folder, cache())
    assert sorted(scanned) == ["a.moe.jsonl", "b.moe.jsonl"]
    write_session(first, 9)
    assert {entry.name: entry.facts.tokens for entry in list_sessions(folder, cache())} == {"a": 9, "b": 5}
    assert sorted(scanned) == ["a.moe.jsonl", "a.moe.jsonl", "b.moe.jsonl"]


def test_files_that_are_gone_leave_the_cache(folder, cache, tmp_path):
    path = write_session(folder / "gone.moe.jsonl", 5)
    list_sessions(folder, cache())
    path.unlink()
    write_session(folder / "here.moe.jsonl", 5)
    list_sessions(folder, cache())
    assert [
        name for name in ("gone", "here") if f"{name}.moe.jsonl" in (tmp_path / "cache/sessions.json").read_text()
    ] == ["here"]


@pytest.mark.parametrize("content", [b"", b"garbage", b"[]", b'{"moe_watch":"other","files":{}}', b'{"files":3}'])
def test_a_cache_that_cannot_be_used_costs_only_time(folder, cache, tmp_path, content):
    write_session(folder / "run.moe.jsonl", 5)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/sessions.json").write_bytes(content)
    (entry,) = list_sessions(folder, cache())
    assert entry.facts.tokens == 5


def test_a_cache_that_cannot_be_written_is_done_without(folder, tmp_path):
    (tmp_path / "file").write_text("in the way")
    write_session(folder / "run.moe.jsonl", 5)
    (entry,) = list_sessions(folder, LibraryCache(tmp_path / "file" / "sessions.json"))
    assert entry.facts.tokens == 5


# -- one of them


def test_a_session_is_found_by_its_name(folder):
    path = write_session(folder / "run.moe.jsonl", 5)
    for name in ("run", "run.moe.jsonl"):
        assert find_session(name, folder) == path
    for name in ("walk", "", "run.moe"):
        with pytest.raises(UserError, match="no such session"):
            find_session(name, folder)
    (folder / "run.moe.jsonl.zst").write_bytes(b"")
    with pytest.raises(UserError, match=r"2 sessions are named 'run': use run\.moe\.jsonl or run\.moe\.jsonl\.zst"):
        find_session("run", folder)
    with pytest.raises(UserError, match="no such session"):
        entry_of(folder / "absent.moe.jsonl", LibraryCache(None))


def test_a_path_is_not_the_name_of_a_session(folder):
    path = write_session(folder / "run.moe.jsonl", 5)
    for name in (str(path), "../sessions/run", "./run.moe.jsonl/.."):
        with pytest.raises(UserError, match=r"not the name of a session: .*--folder"):
            find_session(name, folder)


def test_the_advice_for_a_path_is_a_command_that_works(folder, capsys):
    path = write_session(folder / "my run.moe.jsonl", 5)
    for command, *rest in (["show", str(path)], ["rename", str(path), "new"]):
        assert run(["sessions", command, *rest]) == 2
        advised = shlex.split(capsys.readouterr().err.split("`")[-2])
        assert advised == ["moe-watch", "sessions", "--folder", str(folder), command, path.name, *rest[1:]]
        assert run(advised[1:]) == 0
        capsys.readouterr()
    assert (folder / "new.moe.jsonl").exists()


def test_a_preview_is_how_it_begins_and_no_more(folder):
    texts = ["def ", "f" * 1500, "g" * 1500, "never"]
    events = [msgspec.structs.replace(token, text=text) for token, text in zip(made_tokens(4), texts, strict=True)]
    path = write_session(folder / "run.moe.jsonl", events=events)
    with path.open("ab") as file:
        file.write(b"garbage that a preview does not reach\n")
    seen = preview(entry_of(path, LibraryCache(None)))
    assert seen.text == "".join(texts)[:2000]
    assert seen.cut
    assert seen.header == HEADER


# -- renaming and deleting


def test_renaming_keeps_the_content_and_the_ending(folder):
    path = write_session(folder / "run.moe.jsonl", 5)
    content = path.read_bytes()
    for name in ("walk", "walk2.moe.jsonl"):
        path = rename_session(path, name, listed(folder))
        assert path == folder / f"{name.removesuffix('.moe.jsonl')}.moe.jsonl"
        assert [each.name for each in folder.iterdir()] == [path.name]
    assert path.read_bytes() == content
    packed = folder / "packed.moe.jsonl.zst"
    packed.write_bytes(b"x")
    assert rename_session(packed, "small", []).name == "small.moe.jsonl.zst"


def test_renaming_never_writes_over_a_file(folder):
    path, other = write_session(folder / "a.moe.jsonl", 5), write_session(folder / "b.moe.jsonl", 9)
    before = other.read_bytes()
    for name in ("b", "a"):
        with pytest.raises(UserError, match="exists already"):
            rename_session(path, name, listed(folder))
    assert other.read_bytes() == before
    assert path.is_file()


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "a/b", "..\\b", "a\nb", "a\x1b[31m", "\x00", "x" * 300, ".moe.jsonl"]
)
def test_what_is_no_name_is_refused(folder, name):
    path = write_session(folder / "run.moe.jsonl", 5)
    with pytest.raises(UserError):
        rename_session(path, name, [])
    assert [each.name for each in folder.iterdir()] == ["run.moe.jsonl"]


def test_a_run_of_several_files_keeps_its_name(folder):
    first = write_session(folder / "run.moe.jsonl", 10)
    parts = [part_of(first, folder / f"run.{number}.moe.jsonl") for number in (2, 3)]
    for path in (first, *parts):
        with pytest.raises(
            UserError, match=r"run, run\.2, run\.3 are one session and refer to each other by name: keep their names"
        ):
            rename_session(path, "walk", listed(folder))
    assert len(listed(folder)) == 3


def test_a_run_of_several_files_is_deleted_whole_or_not_at_all(folder):
    first = write_session(folder / "run.moe.jsonl", 10)
    part_of(first, folder / "run.2.moe.jsonl")
    write_session(folder / "other.moe.jsonl", 5)
    found = {entry.name: entry for entry in listed(folder)}
    for name in ("run", "run.2"):
        with pytest.raises(UserError, match=r"run, run\.2 are one session and can only be deleted together"):
            require_whole_runs([found[name], found["other"]], listed(folder))
    require_whole_runs([found["run"], found["run.2"]], listed(folder))
    require_whole_runs([found["other"]], listed(folder))


def test_deleting_what_is_gone_is_said(folder):
    path = write_session(folder / "run.moe.jsonl", 5)
    entry = entry_of(path, LibraryCache(None))
    delete_session(entry)
    assert list(folder.iterdir()) == []
    with pytest.raises(UserError, match="cannot be deleted"):
        delete_session(entry)


# -- pruning


def names(entries):
    return sorted(entry.name for entry in entries)


@pytest.fixture
def four(folder):
    """Four sessions of 1, 2, 3 and 40 days, of the same size."""
    for days in (1, 2, 3, 40):
        aged(write_session(folder / f"d{days:02}.moe.jsonl", 5), days)
    return listed(folder)


@pytest.mark.parametrize(
    ("keep", "gone"),
    [
        ("0", ["d01", "d02", "d03", "d40"]),
        ("3", ["d40"]),
        ("9", []),
        ("30d", ["d40"]),
        ("60h", ["d03", "d40"]),
        ("2.5d", ["d03", "d40"]),
        ("6w", []),
        ("1GB", []),
        ("0KB", ["d01", "d02", "d03", "d40"]),
    ],
)
def test_pruning_keeps_the_newest(four, keep, gone):
    assert names(to_prune(four, keep, NOW)) == gone


def test_pruning_by_size_keeps_what_fits(four):
    room = sum(entry.size for entry in four[:2]) / 1000 + 0.01
    assert names(to_prune(four, f"{room:.3f}KB", NOW)) == ["d03", "d40"]


@pytest.mark.parametrize("keep", ["", "many", "-1", "3.5", "1e3", "5 GiB", "30days", "9" * 20])
def test_an_amount_that_cannot_be_read_is_refused(four, keep):
    with pytest.raises(UserError, match="--keep is"):
        to_prune(four, keep, NOW)


def test_files_of_one_run_go_together(folder):
    first = aged(write_session(folder / "run.moe.jsonl", 10), 9)
    aged(part_of(first, folder / "run.2.moe.jsonl"), 1)
    aged(write_session(folder / "other.moe.jsonl", 5), 5)
    assert names(to_prune(listed(folder), "1", NOW)) == ["other"]
    assert names(to_prune(listed(folder), "3d", NOW)) == ["other"]
    assert names(to_prune(listed(folder), "0", NOW)) == ["other", "run", "run.2"]


def test_a_session_that_may_still_be_recorded_is_kept(folder):
    events = list(with_chunks(HEADER, made_tokens(5)))
    path = folder / "running.moe.jsonl"
    path.write_bytes(b"\n".join(map(to_json, events)) + b"\n")
    for seconds, gone in ((10, []), (3600, ["running"])):
        os.utime(path, (NOW - seconds, NOW - seconds))
        assert names(to_prune(listed(folder), "0", NOW)) == gone


def test_a_file_that_is_only_named_as_a_session_is_left_alone(folder):
    old = aged(write_session(folder / "old.moe.jsonl", 5), 50)
    bad = folder / "bad.moe.jsonl"
    bad.write_bytes(b"precious\n")
    aged(bad, 50)
    assert names(to_prune(listed(folder), "30d", NOW)) == ["old"], old
    assert names(to_prune(listed(folder), "1", NOW)) == []
    (entry,) = (each for each in listed(folder) if each.name == "bad")
    with pytest.raises(UserError, match=r"bad\.moe\.jsonl is not a session: if you do not need it, delete it yourself"):
        delete_session(entry)
    with pytest.raises(UserError, match=r"bad\.moe\.jsonl is not a session"):
        rename_session(bad, "other", listed(folder))
    assert bad.read_bytes() == b"precious\n"
