"""The screen with the checks: line by line, without blocking, and without loading a running model again."""

from __future__ import annotations

import threading

import pytest
from textual.widgets import Static

from moe_watch.sessions.checking.results import failure, fine, warning
from moe_watch.tui.screens import check as screen
from moe_watch.tui.screens.check import CheckScreen
from moe_watch.tui.screens.dashboard import DashboardScreen
from tests.processes import wait_until
from tests.tui.conftest import press, running


@pytest.fixture
def machine(monkeypatch):
    """The checks of the machine: two, and a third that waits for the test."""
    release = threading.Event()

    def checks(cancellation):
        yield fine("disk", "40 GB")
        yield warning("temperatures", "unavailable: no sensors \x1b[2J", "a run works without")
        while not release.wait(0.01):
            cancellation.raise_if_cancelled()
        yield failure("settings", "unknown key", "correct it")

    monkeypatch.setattr(screen, "machine_checks", checks)
    monkeypatch.setattr(screen, "terminal_checks", lambda _: [])
    yield release
    release.set()


def text(app):
    table = app.screen.query_one("#check-lines", Static).content
    return "\n".join(
        " ".join(str(cell) for cell in cells) for cells in zip(*(c.cells for c in table.columns), strict=True)
    )


async def until(pilot, condition):
    for _ in range(400):
        await pilot.pause(0.01)
        if condition():
            return
    raise AssertionError("never came")


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)])
async def test_lines_appear_as_they_finish(machine, size):
    async with running(size=size) as (app, pilot, source):
        await press(app, pilot, "C")
        assert isinstance(app.screen, CheckScreen)
        await until(pilot, lambda: len(app.screen.checks) == 2)
        assert "checking…" in text(app)
        assert "warn temperatures unavailable: no sensors ␛[2J\n→ a run works without" in text(app)
        app.tick()  # the dashboard still draws below
        machine.set()
        await until(pilot, lambda: "finished" in text(app))
        assert "FAIL settings unknown key\n→ correct it" in text(app)
        assert source.asked == [("start",)]
        await press(app, pilot, "escape")
        assert isinstance(app.screen, DashboardScreen)


async def test_leaving_early_ends_the_checks(machine):
    async with running() as (app, pilot, _):
        await press(app, pilot, "C")
        await until(pilot, lambda: len(app.screen.checks) == 2)
        await press(app, pilot, "escape")
        assert isinstance(app.screen, DashboardScreen)
        await app.workers.wait_for_complete()
        wait_until(lambda: not any("checks" in each.name for each in threading.enumerate()), "the end of the thread")


async def test_r_begins_again(machine):
    async with running() as (app, pilot, _):
        await press(app, pilot, "C")
        await until(pilot, lambda: len(app.screen.checks) == 2)
        machine.set()
        await press(app, pilot, "r")
        await until(pilot, lambda: "finished" in text(app))
        assert [each.name for each in app.screen.checks if each.name == "disk"] == ["disk"]
