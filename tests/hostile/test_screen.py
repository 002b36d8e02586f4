"""Hostile text on the dashboard: shown, inert, in every panel, title, message and question."""

from __future__ import annotations

import pytest
from textual.events import Paste

from moe_watch.routing.events import Progress, Refused
from moe_watch.sessions.source import Origin, RecordingStatus
from moe_watch.tui.screens.help import HelpScreen
from moe_watch.tui.widgets.frame_widget import FrameWidget
from tests.hostile.texts import SEEN, TEXTS, TOGETHER, acting, ending, header, run
from tests.tui.conftest import lines, press, running, same_on_every_machine, settle  # noqa: F401 - a fixture
from tests.tui.scripted import LIVE, REPLAY

SIZE = (160, 50)
TABS = "12345"


def screen(app):
    """The characters of the screen; fails if any acts, or if anything can be clicked that text brought along."""
    shown = []
    for strip in app.screen._compositor.render_strips():
        line = "".join(segment.text for segment in strip)
        assert not acting(line), line
        for segment in strip:
            assert not segment.control
            assert segment.style is None or segment.style.link is None
            assert segment.style is None or "app.quit" not in str(segment.style.meta)
        shown.append(line)
    return "\n".join(shown)


def drawn(app):
    """What our own widgets draw and say, without the filter that all lines go through last."""
    widgets = [widget for widget in app.dashboard.walk_children(FrameWidget) if widget.is_on_screen]
    tips = [str(widget.tooltip) for widget in widgets if widget.tooltip]
    titles = [str(part) for widget in widgets for part in (widget._border_title, widget._border_subtitle) if part]
    text = "\n".join([*tips, *titles, *(line for widget in widgets for line in lines(widget))])
    assert not acting(text, allowed="\n"), text
    return text


async def show(app, pilot, source, text, items, mode="failed"):
    """Begin a run, and have the file called by the same text."""
    source.recording = RecordingStatus(mode, text, text, 1, text)
    source.add(items)
    await settle(app, pilot)


@pytest.mark.parametrize("end", ["finished", "error"])
async def test_a_run(end):
    async with running([], size=SIZE, abilities=LIVE | {"restart"}) as (app, pilot, source):
        for text in TEXTS.values():
            await show(app, pilot, source, text, [*run(text), ending(text, end)])
            assert screen(app).count(SEEN) > 5
            assert SEEN in drawn(app)


async def test_a_pause_and_its_reason():
    async with running([], size=SIZE) as (app, pilot, source):
        for text in TEXTS.values():
            await show(app, pilot, source, text, run(text)[:-2], "recording")
            assert "paused" in screen(app)
            assert SEEN in drawn(app)
            assert app.frame_now.why.startswith(SEEN)


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_each_panel_alone(size):
    items = [*run(TOGETHER), ending(TOGETHER, "finished")]
    async with running(items, size=size, origin=Origin("session", name=TOGETHER), abilities=REPLAY) as (
        app,
        pilot,
        _,
    ):
        for tab in TABS:
            await press(app, pilot, tab, "z")
            assert screen(app)
            assert drawn(app)
            await press(app, pilot, "z")


async def test_help():
    async with running([*run(TOGETHER), ending(TOGETHER, "error")], size=SIZE) as (app, pilot, _):
        await press(app, pilot, "question_mark")
        assert isinstance(app.screen, HelpScreen)
        assert "Inject text" in screen(app)


async def test_a_warning_and_a_refusal():
    async with running(run("fine"), size=SIZE) as (app, pilot, source):
        for text in TEXTS.values():
            source.warnings.append(text)
            source.add([Refused(i=9, t=2.0, command="inject", why=f"{text} refused")])
            await settle(app, pilot)
            messages = [str(each.message) for each in app._notifications]
            assert sum(message.startswith(SEEN) for message in messages) == 2
            assert not acting("".join(messages))
            assert screen(app).count(SEEN) >= 2
            app.clear_notifications()


@pytest.mark.parametrize("stage", ["loading", "prefill"])
async def test_progress(stage):
    async with running([], size=SIZE) as (app, pilot, source):
        for text in TEXTS.values():
            await show(app, pilot, source, text, [header(text), Progress(stage=stage, done=1, total=3, note=text)])
            assert SEEN in screen(app)
            assert SEEN in drawn(app)


@pytest.mark.parametrize("key", ["G", "n", "N", "s", "ctrl+p"])
async def test_what_is_pasted(key):
    async with running(run("fine"), size=SIZE) as (app, pilot, _):
        await press(app, pilot, key)
        for text in (TOGETHER, TEXTS["clears the screen"], TEXTS["bidirectional"]):
            app.screen.focused.post_message(Paste(text))
            await pilot.pause()
            assert SEEN in screen(app)


async def test_what_is_asked_for_again():
    async with running(run("fine"), size=SIZE) as (app, pilot, source):
        await press(app, pilot, "N")
        app.screen.focused.post_message(Paste(TOGETHER))
        await press(app, pilot, "ctrl+s", "N", "up")
        assert source.asked[-1][0] == "prompt"
        assert SEEN in screen(app)


async def test_text_without_end_does_not_stop_the_screen():
    endless = "\x1b[2J漢" * 2_500_000
    async with running([], size=SIZE, abilities=LIVE | {"restart"}) as (app, pilot, source):
        await show(app, pilot, source, endless, [*run(endless), ending(endless, "error")])
        assert "␛[2J漢" in screen(app)
        assert sum(len(run.text) for line in app.dashboard.stream._wrap.lines for run in line.runs) < 1_000_000
        assert all(len(piece.text) <= 10_000 for piece in app.view.pieces)
        assert len(drawn(app)) < 100_000
