"""Hostile text on the dashboard: shown, inert, in every panel, title, message and question."""

from __future__ import annotations

import pytest

from routing.events import Progress
from sessions.source import RecordingStatus
from tests.hostile.texts import SEEN, TEXTS, acting, ending, header, run
from tests.tui.conftest import press, running, same_on_every_machine, settle  # noqa: F401 - a fixture
from tests.tui.scripted import LIVE, REPLAY

SIZE = (160, 50)


@pytest.fixture(params=TEXTS.values(), ids=TEXTS)
def text(request):
    return request.param


def strips(app):
    """What the terminal is given, all of the screen and of what lies over it."""
    return app.screen._compositor.render_strips()


def screen(app):
    """The characters of the screen; fails if any acts, or if anything can be clicked that text brought along."""
    lines = []
    for strip in strips(app):
        line = "".join(segment.text for segment in strip)
        assert not any(segment.control for segment in strip)
        assert not acting(line), line
        for segment in strip:
            if segment.style is not None:
                assert segment.style.link is None
                assert "app.quit" not in str(segment.style.meta)
        lines.append(line)
    return "\n".join(lines)


def said(app):
    """Tooltips and messages, wherever they are drawn."""
    tips = [str(widget.tooltip) for widget in app.dashboard.walk_children(with_self=True) if widget.tooltip]
    return "\n".join(tips)


@pytest.mark.parametrize("end", ["finished", "error"])
async def test_every_text_of_a_run(text, end):
    hostile = RecordingStatus("failed", text, text, 1, text)
    items = [*run(text), ending(text, end)]
    async with running(items, size=SIZE, recording=hostile, abilities=LIVE | {"restart"}) as (app, pilot, _):
        assert screen(app).count(SEEN) > 5
        assert not acting(said(app), allowed="\n")
        for tab in "12345":
            await press(app, pilot, tab, "z")
            assert screen(app)
            await press(app, pilot, "z")
        await press(app, pilot, "question_mark")
        assert "Keys" in screen(app) or "Run" in screen(app)


async def test_pause_and_its_reason(text):
    items = run(text)[:-2]
    async with running(items, size=SIZE, recording=RecordingStatus("recording", text, text, 1)) as (app, _, _):
        assert "paused" in screen(app)
        assert SEEN in screen(app)


@pytest.mark.parametrize("size", [(80, 24), (60, 20)])
async def test_narrow(text, size):
    items = [*run(text), ending(text, "finished")]
    async with running(items, size=size, recording=RecordingStatus("replay", text, text, 1), abilities=REPLAY) as (app, pilot, _):
        for tab in "12345":
            await press(app, pilot, tab)
            assert screen(app)


async def test_warnings_and_refusals(text):
    async with running(run(text), size=SIZE) as (app, pilot, source):
        source.warnings.append(text)
        source.add([run(text)[9]])
        await settle(app, pilot)
        messages = [str(each.message) for each in app._notifications]
        assert sum(SEEN in message for message in messages) >= 1
        assert not acting("".join(messages), allowed="\n")
        assert SEEN in screen(app)


async def test_progress(text):
    async with running([Progress(stage="loading", note=text)], size=SIZE) as (app, pilot, source):
        assert SEEN in screen(app)
        source.add([header(text), Progress(stage="prefill", done=1, total=3, unit="tokens", note=text)])
        await settle(app, pilot)
        assert screen(app)


async def test_command_palette_over_it(text):
    async with running(run(text), size=SIZE) as (app, pilot, _):
        await press(app, pilot, "ctrl+p")
        assert screen(app)


@pytest.mark.parametrize("key", ["G", "n", "N", "s"])
async def test_what_is_pasted_into_a_question(text, key):
    from textual.events import Paste

    async with running(run("fine"), size=SIZE) as (app, pilot, _):
        await press(app, pilot, key)
        assert app.screen.id == "ask"
        app.screen.focused.post_message(Paste(text))
        await settle(app, pilot)
        assert screen(app)
