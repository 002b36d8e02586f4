"""Frames are drawn on time, and skipped if nothing has changed."""

from __future__ import annotations

import pytest

from moe_watch.routing.errors import UserError
from moe_watch.tui.app import FOLD_SECONDS
from moe_watch.tui.state.frame_rate import CALM_FRAMES, SLOWEST, FrameRate
from tests.tui.conftest import make_app, running, settle
from tests.tui.events import MadeUpRun, main_run
from tests.tui.scripted import ManualClock


def test_slow_frames_halve_the_rate_and_calm_ones_bring_it_back():
    rate = FrameRate(12.0)
    assert not rate.took(0.04)
    assert rate.took(0.05)
    assert rate.fps == 6.0
    for _ in range(CALM_FRAMES - 1):
        assert not rate.took(0.001)
    assert rate.took(0.001)
    assert rate.fps == 12.0
    for _ in range(3 * CALM_FRAMES):
        assert not rate.took(0.001)


def test_it_never_stands_still():
    rate = FrameRate(12.0)
    for _ in range(20):
        rate.took(5.0)
    assert rate.fps == SLOWEST


async def test_nothing_is_drawn_where_nothing_has_changed(monkeypatch):
    async with running(main_run(60)) as (app, pilot, source):
        drawn = []
        for panel in app.dashboard.panels:
            monkeypatch.setattr(panel, "redraw", lambda panel=panel: drawn.append(panel.id))
        await settle(app, pilot)
        assert drawn == []
        source.add(MadeUpRun().vitals() for _ in range(1))
        await settle(app, pilot)
        assert drawn == ["vitals"]


async def test_hidden_panels_are_not_drawn(monkeypatch):
    run = MadeUpRun()
    async with running([*run.prompt(), *run.generate(30)], size=(80, 24)) as (app, pilot, source):
        drawn = set()
        for panel in app.dashboard.panels:
            monkeypatch.setattr(panel, "redraw", lambda panel=panel: drawn.add(panel.id))
        source.add(run.generate(40))
        await settle(app, pilot)
        assert drawn == {"stream", "experts"}


async def test_a_flood_is_taken_in_over_several_frames_in_order():
    class Costly(ManualClock):
        """Each reading of the clock advances it by a tenth of the time that a frame may process events."""

        def __call__(self):
            self.now += FOLD_SECONDS / 10
            return self.now

    items = main_run(200)
    app = make_app(items, clock=Costly())
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.pause()
        partly = app.view.tokens
        assert 0 < partly < 20
        for _ in range(100):
            app.tick()
        await pilot.pause()
        assert [piece.i for piece in app.view.pieces if piece.role == "generated"][-1] == app.view.tokens - 1
        assert app.view.decoded == 200


async def test_with_a_timer_frames_come_by_themselves():
    app = make_app(main_run(30), fps=30.0)
    async with app.run_test(size=(120, 40)) as pilot:
        while app.view.decoded < 30:
            await pilot.pause(0.01)
        assert app.view.decoded == 30


async def test_a_flood_of_items_does_not_slow_the_frames_down(monkeypatch):
    clock = ManualClock()
    app = make_app(main_run(400), clock=clock, fps=12.0)
    feed = app.view.feed

    def feed_slowly(item):
        clock.advance(0.002)
        feed(item)

    drawn: list[float] = []
    frame_done = app._frame_done

    def note_frame(drawing):
        frame_done(drawing)
        drawn.append(drawing)

    monkeypatch.setattr(app.view, "feed", feed_slowly)
    monkeypatch.setattr(app, "_frame_done", note_frame)
    monkeypatch.setattr(app, "_set_timer", lambda: None)  # no frame but those made here, one after the other
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.pause()
        for _ in range(60):
            drawn.clear()
            app.tick()
            while clock() not in drawn:
                await pilot.pause()
        assert app.view.decoded == 400
        assert app._rate.fps == 12.0


def test_a_theme_that_does_not_exist_is_refused_in_one_line():
    with pytest.raises(UserError, match=r"no theme is called 'neon': one of .*moe-watch-dark"):
        make_app([], theme="neon")
