"""Search in a replay: the input line, its messages, and the seek to a match."""

from __future__ import annotations

import threading
from contextlib import asynccontextmanager

import pytest

from moe_watch.sessions.replaying import search as finding
from moe_watch.sessions.replaying.source import ReplaySource
from moe_watch.tui.app import MoeWatchApp
from moe_watch.tui.screens.find import FindScreen
from tests.sessions.kit import wait_until
from tests.tui.conftest import AtOnce, lines, press, running, settle, shown, toasts
from tests.tui.events import MadeUpRun, main_run
from tests.tui.scripted import LIVE, REPLAYING, SEEKABLE, ManualClock
from tests.tui.test_seeking import landed, written


@pytest.fixture(scope="module")
def events():
    run = MadeUpRun()
    return [*run.prompt(), *run.generate(420), *run.inject(" Now say ZEBRA:"), *run.generate(300)]


@pytest.fixture(scope="module")
def path(events, tmp_path_factory):
    return written(tmp_path_factory.mktemp("finding") / "run.moe.jsonl", events)


@asynccontextmanager
async def replaying(path, size=(120, 40)):
    """Run the app on a replay of a file with a stopped clock."""
    clock = ManualClock()
    app = MoeWatchApp(ReplaySource(path, clock), clock=clock, fps=None, executor=AtOnce())
    async with app.run_test(size=size, notifications=True) as pilot:
        await settle(app, pilot)
        yield app, pilot


async def looked(app, pilot):
    """Draw the result of a search."""
    search = app.control.search
    if search is not None:
        wait_until(lambda: search.over, "the end of the search")
    await landed(app, pilot)


def status(app):
    return str(app.screen.query_one("#find-status").render())


def text_before(app, tokens):
    """Return the text of the last tokens shown."""
    return "".join(piece.text for piece in app.view.stream.newest(tokens))


@pytest.mark.parametrize("size", [(120, 40), (80, 24)], ids=["wide", "narrow"])
async def test_slash_goes_to_a_text_and_enter_to_the_next_one(path, events, size):
    async with replaying(path, size) as (app, pilot):
        await press(app, pilot, "slash", *"CHUNK", "enter")
        assert isinstance(app.screen, FindScreen)
        seen = []
        for _ in range(3):
            await looked(app, pilot)
            assert text_before(app, 3).casefold().endswith("chunk") or "chunk" in text_before(app, 3).casefold()
            assert status(app).startswith("token ")
            seen.append(app.view.tokens)
            await press(app, pilot, "enter")
        assert seen == sorted(set(seen))
        assert app.source.pace.paused
        await press(app, pilot, "escape")
        assert not isinstance(app.screen, FindScreen)


async def test_an_injected_text_is_found_and_said_where(path, events):
    async with replaying(path) as (app, pilot):
        await press(app, pilot, "slash", *"zebra", "enter")
        await looked(app, pilot)
        (injection,) = app.source.timeline.perturbations
        assert injection.i < app.view.tokens <= injection.i + len(injection.ids)
        assert "zebra" in text_before(app, 3).casefold()
        assert f"token {app.view.tokens - 2:,}"[:7] in status(app)
        await press(app, pilot, "enter")
        await looked(app, pilot)
        assert "search wrapped around" in status(app)


async def test_what_was_looked_for_is_there_again_and_n_goes_on(path):
    async with replaying(path) as (app, pilot):
        await press(app, pilot, "n")
        assert isinstance(app.screen, FindScreen)
        await press(app, pilot, *"self", "enter")
        await looked(app, pilot)
        first = app.view.tokens
        await press(app, pilot, "escape", "slash")
        assert app.screen.query_one("#find-line").value == "self"
        await press(app, pilot, "escape", "n")
        await looked(app, pilot)
        assert app.view.tokens > first
        assert toasts(app) == []


async def test_what_is_not_there_is_said(path):
    async with replaying(path) as (app, pilot):
        await press(app, pilot, "slash", *"qqq", "enter")
        before = app.view.tokens
        await looked(app, pilot)
        assert status(app).startswith("not found")
        assert app.view.tokens == before
        assert not app.source.pace.paused
        await press(app, pilot, "escape", "n")
        await looked(app, pilot)
        assert toasts(app) == ["‘qqq’: not found outside the prompt"]


async def test_nothing_is_looked_for_without_a_text(path):
    async with replaying(path) as (app, pilot):
        await press(app, pilot, "slash", "enter")
        assert app.control.search is None
        assert isinstance(app.screen, FindScreen)


@pytest.fixture
def held(monkeypatch):
    """Hold searches, as a slow disk would, until they are released."""
    go_on, reached = threading.Event(), threading.Event()

    class Slow(finding.Lines):
        def next(self):
            reached.set()
            go_on.wait()
            return super().next()

    monkeypatch.setattr(finding, "Lines", Slow)
    yield reached, go_on
    go_on.set()


async def test_a_search_under_way_says_how_far_it_is_and_the_screen_goes_on(path, held):
    reached, go_on = held
    async with replaying(path) as (app, pilot):
        await press(app, pilot, "slash", *"zebra", "enter")
        assert reached.wait(20)
        await settle(app, pilot)
        assert status(app).startswith("searching, 0 %")
        assert "‘zebra’: searching, 0 %" in lines(app.dashboard.timeline)[0]
        go_on.set()
        await looked(app, pilot)
        assert "zebra" in text_before(app, 3).casefold()
        assert "looking" not in shown(app.dashboard.timeline)


@pytest.mark.parametrize("key", ["home", "left", "5"])
async def test_moving_elsewhere_ends_a_search(path, held, key):
    reached, go_on = held
    async with replaying(path) as (app, pilot):
        app.control.sought = "zebra"
        await press(app, pilot, "n")
        search = app.control.search
        assert reached.wait(20)
        threading.Timer(0.05, go_on.set).start()
        await press(app, pilot, key)
        assert app.control.search is None
        assert search.over
        await landed(app, pilot)
        assert "zebra" not in text_before(app, 3).casefold()


async def test_escape_ends_a_search(path, held):
    reached, go_on = held
    async with replaying(path) as (app, pilot):
        await press(app, pilot, "slash", *"zebra", "enter")
        search = app.control.search
        assert reached.wait(20)
        threading.Timer(0.05, go_on.set).start()
        await press(app, pilot, "escape")
        assert search.over
        await settle(app, pilot)
        assert app.control.search is None
        assert "looking" not in shown(app.dashboard.timeline)


async def test_hostile_text_is_shown_and_not_obeyed(path):
    async with replaying(path) as (app, pilot):
        app.control.sought = "[red]\x1b[2J"
        await press(app, pilot, "n")
        await looked(app, pilot)
        assert toasts(app) == ["‘[red]␛[2J’: not found outside the prompt"]


async def test_a_source_without_a_recording_says_so():
    async with running(main_run(33), abilities=SEEKABLE, origin=REPLAYING) as (app, pilot, _):
        await press(app, pilot, "slash", "x", "enter")
        assert toasts(app) == ["find…: nothing of the recording can be searched yet"]


@pytest.mark.parametrize(("key", "title"), [("slash", "find…"), ("7", "go to 0…90 %")])
async def test_a_live_run_cannot_be_looked_through(key, title):
    async with running(main_run(33), abilities=LIVE) as (app, pilot, _):
        await press(app, pilot, key)
        assert toasts(app) == [f"{title}: only in a replay"]


async def test_digits_from_the_palette_ask_for_the_place(path):
    async with replaying(path) as (app, pilot):
        await app.action_perform("tenth")
        await press(app, pilot, *"50%", "enter")
        await landed(app, pilot)
        assert app.view.tokens == round(app.source.timeline.tokens / 2)
        await press(app, pilot, "9")
        await landed(app, pilot)
        assert app.view.tokens == round(0.9 * app.source.timeline.tokens)
