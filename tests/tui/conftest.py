"""Fixtures of the dashboard's tests: the app on a scripted source, independent of this machine."""

from __future__ import annotations

from concurrent.futures import Executor, Future
from contextlib import asynccontextmanager

import pytest
from textual.widgets import Input

from moe_watch.tui.app import MoeWatchApp
from tests.tui.events import main_run
from tests.tui.scripted import ManualClock, scripted


@pytest.fixture(autouse=True)
def same_on_every_machine(monkeypatch):
    """No colours of this terminal, no blinking cursors (the command palette has its own), and toasts that stay."""
    for name in ("NO_COLOR", "COLORTERM", "TEXTUAL_THEME", "TEXTUAL_ANIMATIONS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Input, "cursor_blink", False)
    monkeypatch.setattr(MoeWatchApp, "NOTIFICATION_TIMEOUT", 3600.0)


class AtOnce(Executor):
    """Executor that does the work at once, in the calling thread."""

    def submit(self, work, /, *arguments, **named):
        done = Future()
        try:
            done.set_result(work(*arguments, **named))
        except Exception as error:
            done.set_exception(error)
        return done


def make_app(items=None, *, theme=None, simulated=False, clock=None, fps=None, executor=None, importance=(), **source):
    """The app on a scripted source, without a timer."""
    script = scripted(main_run() if items is None else items, **source)
    clock, executor = clock or ManualClock(), executor or AtOnce()
    return MoeWatchApp(
        script, clock=clock, fps=fps, theme=theme, simulated=simulated, executor=executor, importance=importance
    )


@asynccontextmanager
async def running(items=None, *, size=(120, 40), **options):
    """The app, its pilot and its source, with all items shown."""
    app = make_app(items, **options)
    async with app.run_test(size=size, notifications=True) as pilot:
        await settle(app, pilot)
        yield app, pilot, app.source
        app.workers.cancel_all()  # a palette's search would query removed widgets


async def settle(app, pilot):
    """Draw all pending events."""
    await pilot.pause()
    app.tick()
    await pilot.pause()


async def press(app, pilot, *keys):
    """Press keys, and draw their effect."""
    await pilot.press(*keys)
    app.tick()
    await pilot.pause()


def lines(widget):
    """Return the lines of a drawn widget."""
    return [widget.render_line(y).text.rstrip() for y in range(widget.content_size.height)]


def shown(widget):
    """Return the text of a drawn widget with the title and note of its frame."""
    frame = [str(part) for part in (widget._border_title, widget._border_subtitle) if part]
    return "\n".join([*frame, *lines(widget)])


def style_at(widget, x, y):
    """The style of one cell of the content."""
    for segment in widget.render_line(y):
        x -= segment.cell_length
        if x < 0:
            return segment.style
    raise AssertionError("nothing is drawn there")


def toasts(app):
    """The messages on the screen."""
    return [notification.message for notification in app._notifications]
