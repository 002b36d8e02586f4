"""The list of recorded sessions: shown, previewed, replayed in place, renamed, deleted."""

from __future__ import annotations

import gc
import os
import weakref
from contextlib import asynccontextmanager

import msgspec
import pytest
from textual.widgets import OptionList, Static

from moe_watch.routing.events import Continues
from moe_watch.sessions import paths
from moe_watch.sessions.library.cache import LibraryCache
from moe_watch.sessions.library.listing import entry_of
from moe_watch.sessions.library.scanning import Facts, HalfLife
from moe_watch.sessions.source import RecordingStatus
from moe_watch.tui.screens.ask import AskScreen
from moe_watch.tui.screens.confirm import ConfirmScreen
from moe_watch.tui.screens.dashboard import DashboardScreen
from moe_watch.tui.screens.session_rows import columns, description, half_life, head, row
from moe_watch.tui.screens.sessions import SessionsScreen
from tests.hostile.texts import SEEN, TEXTS, acting
from tests.sessions.kit import HEADER
from tests.sessions.made_sessions import write_session
from tests.tui.conftest import press, running, settle, shown, toasts
from tests.tui.events import main_run
from tests.tui.scripted import REPLAY, REPLAYING

OFF = RecordingStatus("off")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder for recordings, with a good session, a truncated one, and a file that is no session; newest first."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = paths.sessions_directory()
    folder.mkdir(parents=True)
    write_session(folder / "good.moe.jsonl", 90)
    torn = write_session(folder / "torn.moe.jsonl", 20)
    torn.write_bytes(torn.read_bytes()[:-20])
    (folder / "none.moe.jsonl").write_bytes(b"nothing\n")
    for age, name in enumerate(("good", "torn", "none")):
        os.utime(folder / f"{name}.moe.jsonl", (1_800_000_000 - age, 1_800_000_000 - age))
    return folder


def continued(folder, written):
    """Write a continuation file of the good session, with a given modification time."""
    header = msgspec.structs.replace(HEADER, continues=Continues(file="good.moe.jsonl", i=90))
    path = write_session(folder / "good.2.moe.jsonl", 0, header=header, events=[])
    os.utime(path, (written, written))
    return path


async def read(app, pilot):
    """Wait for the threads that read files."""
    await app.workers.wait_for_complete()
    await pilot.pause()
    await app.workers.wait_for_complete()
    await pilot.pause()


@asynccontextmanager
async def listing(*, size=(120, 40), **options):
    """The app with the list of sessions open."""
    async with running(main_run(33), size=size, **(options or {"recording": OFF})) as (app, pilot, source):
        await press(app, pilot, "S")
        await read(app, pilot)
        assert isinstance(app.screen, SessionsScreen)
        yield app, pilot, source


def rows(app):
    listed = app.screen.query_one("#sessions-list", OptionList)
    return [str(listed.get_option_at_index(at).prompt) for at in range(listed.option_count)]


def told(app, name):
    return str(app.screen.query_one(f"#sessions-{name}", Static).content)


async def test_sessions_are_listed_newest_first_with_what_they_are(folder):
    async with listing() as (app, _, _):
        good, torn, none = rows(app)
        assert good.split() == ["good", "2026-11-20", "09:00", "90", *good.split()[4:]]
        assert "made/up model" in good
        assert good.endswith("whole      ")
        assert torn.endswith("torn       ")
        assert none.endswith("unreadable ")
        assert none.split()[1:3] == ["n/a", "n/a"]
        assert "3 files" in str(app.screen.query_one("#sessions-box")._border_title)
        assert "ended: token limit reached" in told(app, "facts")


async def test_the_one_under_the_cursor_is_described(folder):
    async with listing() as (app, pilot, _):
        before = told(app, "text")
        assert before
        await pilot.press("down")
        await read(app, pilot)
        assert "cut off" in told(app, "facts")
        await pilot.press("down")
        await read(app, pilot)
        assert "none.moe.jsonl" in told(app, "facts")
        assert told(app, "text") == ""


async def test_enter_replays_in_place_and_the_run_before_is_closed(folder):
    async with listing(origin=REPLAYING, abilities=REPLAY) as (app, pilot, source):
        await press(app, pilot, "enter")
        await app.workers.wait_for_complete()
        await settle(app, pilot)
        assert isinstance(app.screen, DashboardScreen)
        assert source.asked[-1] == ("close",)
        assert app.source.origin.name == "good.moe.jsonl"
        await press(app, pilot, "end")
        await settle(app, pilot)
        assert app.view.header == HEADER
        assert app.view.tokens == 90
        assert "token 90 of 90" in shown(app.dashboard.query_one("#timeline"))
        assert "space play again · home beginning · q quit" in shown(app.dashboard.query_one("#banner"))
        await press(app, pilot, "space")
        await settle(app, pilot)
        assert not app.source.pace.paused
        assert app.view.tokens < 90


async def test_a_run_in_progress_ends_only_after_a_question(folder):
    async with listing() as (app, pilot, source):
        await press(app, pilot, "enter")
        assert isinstance(app.screen, ConfirmScreen)
        await press(app, pilot, "escape")
        assert isinstance(app.screen, SessionsScreen)
        assert source.asked == [("start",)]
        await press(app, pilot, "enter")
        await press(app, pilot, "y")
        await app.workers.wait_for_complete()
        assert source.asked[-1] == ("close",)
        assert app.source.origin.kind == "session"


async def test_keys_of_the_list_do_nothing_to_the_run(folder):
    async with listing() as (app, pilot, source):
        await press(app, pilot, "space", "g", "o", "m", "plus")
        assert source.asked == [("start",)]
        await press(app, pilot, "escape")
        assert isinstance(app.screen, DashboardScreen)


async def test_what_cannot_be_read_is_not_replayed(folder):
    async with listing(origin=REPLAYING, abilities=REPLAY) as (app, pilot, source):
        await press(app, pilot, "end", "enter")
        assert isinstance(app.screen, SessionsScreen)
        assert len(toasts(app)) == 1
        assert source.asked == [("start",)]


async def test_a_file_that_is_gone_when_it_is_chosen_leaves_all_as_it_is(folder):
    async with listing(origin=REPLAYING, abilities=REPLAY) as (app, pilot, source):
        (folder / "good.moe.jsonl").unlink()
        await press(app, pilot, "enter")
        assert app.source is source
        assert "good.moe.jsonl" in toasts(app)[0]


async def test_d_deletes_after_a_question(folder):
    async with listing() as (app, pilot, _):
        await press(app, pilot, "down", "d")
        assert isinstance(app.screen, ConfirmScreen)
        await press(app, pilot, "n")
        assert (folder / "torn.moe.jsonl").exists()
        await press(app, pilot, "d", "y")
        await read(app, pilot)
        assert not (folder / "torn.moe.jsonl").exists()
        assert [each.split()[0] for each in rows(app)] == ["good", "none"]


async def test_the_files_of_one_run_are_deleted_together_and_keep_their_names(folder):
    first, part = folder / "good.moe.jsonl", continued(folder, 1_800_000_001)
    async with listing() as (app, pilot, _):
        assert [each.split()[0] for each in rows(app)] == ["good.2", "good", "torn", "none"]
        await press(app, pilot, "n", "x", "enter")
        await read(app, pilot)
        assert "good, good.2 are one session and refer to each other by name: keep their names" in toasts(app)[-1]
        await press(app, pilot, "d")
        question = str(app.screen.query(Static).first().content)
        assert question.startswith("good.moe.jsonl, good.2.moe.jsonl, ")
        assert question.endswith(", are one run, and deleted for good.")
        await press(app, pilot, "y")
        await read(app, pilot)
        assert [each.split()[0] for each in rows(app)] == ["torn", "none"]
        assert not first.exists()
        assert not part.exists()


async def test_no_file_of_the_run_on_the_screen_is_deleted(folder):
    first, part = folder / "good.moe.jsonl", continued(folder, 1_700_000_000)
    async with listing(recording=RecordingStatus("recording", part.name, str(part), 5)) as (app, pilot, _):
        assert rows(app)[0].split()[0] == "good"
        await press(app, pilot, "d")
        assert isinstance(app.screen, SessionsScreen)
        assert toasts(app)[-1].endswith("this is the session on the screen")
        assert first.exists()


async def test_n_renames_and_says_what_is_no_name(folder):
    async with listing() as (app, pilot, _):
        await press(app, pilot, "n")
        assert isinstance(app.screen, AskScreen)
        await press(app, pilot, "minus", "2", "enter")
        await read(app, pilot)
        assert (folder / "good-2.moe.jsonl").exists()
        assert [each.split()[0] for each in rows(app)] == ["good-2", "torn", "none"]
        await press(app, pilot, "n", *["slash" if key == "/" else key for key in "/x"], "enter")
        await read(app, pilot)
        assert "is not a valid session name" in toasts(app)[-1]
        assert (folder / "good-2.moe.jsonl").exists()


@pytest.mark.parametrize("key", ["enter", "d", "n"])
async def test_the_session_on_the_screen_stays_as_it_is(folder, key):
    path = folder / "good.moe.jsonl"
    async with listing(recording=RecordingStatus("recording", path.name, str(path), 5)) as (app, pilot, source):
        assert rows(app)[0].startswith("● good")
        await press(app, pilot, key)
        assert isinstance(app.screen, SessionsScreen)
        assert toasts(app)[-1].endswith("this is the session on the screen")
        assert source.asked == [("start",)]


async def test_an_empty_folder_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    async with listing() as (app, pilot, _):
        assert told(app, "facts") == "nothing is recorded yet"
        await press(app, pilot, "enter", "d", "n")
        assert isinstance(app.screen, SessionsScreen)


async def test_names_and_texts_of_files_do_nothing_to_the_terminal(folder):
    for path in folder.iterdir():
        path.unlink()
    for at, text in enumerate(TEXTS.values()):
        name = text.replace("/", "").replace("\x00", "").encode("utf-8", "replace")[:150].decode("utf-8", "ignore")
        model = msgspec.structs.replace(HEADER.model, name=text, quantization=text)
        backend = msgspec.structs.replace(HEADER.backend, name=text)
        head_of_it = msgspec.structs.replace(HEADER, model=model, backend=backend, prompt=text, created=text)
        write_session(folder / f"{at} {name}.moe.jsonl", 12, header=head_of_it)
    async with listing(size=(160, 50)) as (app, pilot, _):
        for at in range(len(TEXTS)):
            texts = [*rows(app), told(app, "facts"), told(app, "text")]
            assert sum(SEEN in text for text in texts) > len(TEXTS)
            assert not any(acting(text, allowed="\n") for text in texts), at
            await pilot.press("down")
            await read(app, pilot)


@pytest.mark.parametrize("width", [30, 56, 76, 96, 116, 196])
def test_rows_fit_and_stand_below_their_titles(folder, width):
    cache = LibraryCache(None)
    lines = [head(width), *(row(entry_of(path, cache), width) for path in sorted(folder.iterdir()))]
    assert {line.cell_length for line in lines} == {max(width, lines[0].cell_length)}
    assert lines[0].cell_length <= max(width, 40)
    titles = [title for title, _ in columns(width)]
    assert titles[-1] == "file"
    assert "tokens" in titles


def test_half_life_in_a_word(folder):
    found = entry_of(folder / "good.moe.jsonl", LibraryCache(None))

    def said(**fields):
        facts = msgspec.structs.replace(found.facts, half_life=HalfLife(words="", **fields))
        assert isinstance(facts, Facts)
        return half_life(type(found)(found.path, 1, 0.0, facts))

    assert said() == "n/a"
    assert said(verdict="stable") == "stable"
    assert said(verdict="exponential", half_life=12.34) == "12.3 chunks"


async def test_a_replay_that_was_left_is_let_go_of(folder):
    """No list, worker or frame references it: it is freed without the garbage collector."""
    async with running(main_run(5), origin=REPLAYING, abilities=REPLAY) as (app, pilot, _):
        left = []
        for _ in range(4):
            app._replay(folder / "good.moe.jsonl")
            await press(app, pilot, "end")
            await app.workers.wait_for_complete()
            left.append(weakref.ref(app.source))
        gc.disable()
        try:
            app._replay(folder / "good.moe.jsonl")
            await app.workers.wait_for_complete()
            await settle(app, pilot)
            assert [source() for source in left] == [None] * 4
        finally:
            gc.enable()


@pytest.mark.parametrize("running_now", [True, False], ids=["running", "replayed"])
def test_the_run_under_way_is_called_recording_and_not_unfinished(folder, running_now):
    path = write_session(folder / "now.moe.jsonl")
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    entry = entry_of(path)
    assert entry.condition == "unfinished"
    line = str(row(entry, 120, present=True, running=running_now))
    about = str(description(entry, running=running_now))
    assert line.rstrip().endswith("recording" if running_now else "unfinished")
    assert ("being recorded now" in about) == running_now
    assert ("no end is recorded" in about) != running_now
    assert str(row(entry, 120, running=running_now)).rstrip().endswith("unfinished")
