"""Masks, another k and numbers before pruning, from a recording to the screen."""

from __future__ import annotations

from pathlib import Path

import pytest

from moe_watch.routing.router.masks import ExpertMask
from moe_watch.sessions.replaying.source import ReplaySource
from moe_watch.sessions.source import Jump
from moe_watch.tui.app import MoeWatchApp
from tests.processes import wait_until
from tests.tui.conftest import AtOnce, lines, press, settle, shown, toasts
from tests.tui.scripted import ManualClock

GOLDEN = Path(__file__).parents[2] / "golden" / "golden-1.4-fields.moe.jsonl"


@pytest.fixture
async def app():
    clock = ManualClock()
    source = ReplaySource(GOLDEN, clock, speed=0)
    app = MoeWatchApp(source, clock=clock, fps=None, executor=AtOnce())
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        app.pilot = pilot
        await played(app)
        yield app


async def played(app):
    def done() -> bool:
        app.tick()
        return app.frame_now.ended

    wait_until(done, "the end of the recording")
    await settle(app, app.pilot)


async def sought(app, token):
    app.source.pause()
    app.source.seek(Jump("token", token))

    def there() -> bool:
        app.tick()
        return app.view.tokens == token

    wait_until(there, f"token {token}")
    await settle(app, app.pilot)


async def test_the_timeline_has_all_changes_of_the_mask(app):
    assert [change.i for change in app.source.timeline.masks] == [0, 12, 29]
    assert lines(app.dashboard.timeline)[0].count("×") >= 2


async def test_the_mask_is_that_of_each_position(app):
    assert not app.view.mask
    for token, mask in ((5, [(1, 0)]), (14, [(1, 0), (4, 2), (4, 3)]), (24, [(1, 0), (4, 2), (4, 3)]), (33, [])):
        await sought(app, token)
        assert app.view.mask == ExpertMask.of(mask)
        assert app.dashboard.experts.content.off is None if not mask else app.dashboard.experts.content.off.any()


async def test_stream_and_header_name_them(app):
    text = shown(app.dashboard.stream)
    assert "× layer 1 expert 0 off" in text
    assert "× layer 4 experts 2, 3 off" in text
    assert "× all experts on" in text
    assert "◇ 2 experts per token" in text
    assert "k=2, own 3" in shown(app.dashboard.query_one("#header"))


async def test_numbers_before_pruning(app):
    await press(app, app.pilot, "number_sign", "2", "down")
    heatmap = app.dashboard.experts
    heatmap._point_at(2, 0)
    assert "layer 4 · expert 0 (1 in the whole model)" in lines(heatmap)[-1]


async def test_x_is_refused(app):
    await press(app, app.pilot, "x")
    assert toasts(app) == ["expert off/on: not in a replay, the recording is what it is"]
