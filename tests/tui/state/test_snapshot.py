"""A frame is a snapshot: it is the same after later events."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest

from moe_watch.routing.events import Header
from moe_watch.tui.state.frame import Frame
from moe_watch.tui.state.run import RunView
from moe_watch.tui.state.snapshot import FOLDING_ONLY
from tests.tui.conftest import lines, running
from tests.tui.events import MadeUpRun, forks, main_run, tap_off
from tests.tui.scripted import Scripted


def contexts():
    run = MadeUpRun()
    first = [*run.prompt(), *run.generate(330)]
    return [*first, *run.state("fresh_context", why="full"), *run.generate(70), *run.inject(), *run.generate(60)]


RUNS = {
    "injected": main_run(460),
    "contexts": contexts(),
    "forks": forks(),
    "tap-off": tap_off(),
    "next-run": [*main_run(60), *main_run(40)],
}


def plain(value):
    """Return a value that compares equal as long as nothing in an object of the view has changed."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, list | deque | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if type(value).__module__.startswith("moe_watch.tui") or type(value).__name__ in ("MidSeries", "ContextSeries"):
        names = [*getattr(value, "__dict__", ()), *getattr(type(value), "__slots__", ())]
        return {name: plain(getattr(value, name)) for name in names if name not in FOLDING_ONLY}
    return vars(value) | {} if hasattr(value, "__dict__") else value


@pytest.mark.parametrize("cut", [1, 7, 25, 55, 200, 299, 420])
@pytest.mark.parametrize("items", RUNS.values(), ids=RUNS)
def test_later_events_do_not_change_a_frame(items, cut):
    view = RunView()
    for item in items[:cut]:
        view.feed(item)
    held = Frame.of(view, Scripted())
    before = repr(plain(held.view))
    for item in items[cut:]:
        view.feed(item)
    assert repr(plain(held.view)) == before


@pytest.mark.parametrize("cut", [25, 299, 420])
@pytest.mark.parametrize("items", RUNS.values(), ids=RUNS)
async def test_a_held_frame_is_drawn_the_same_after_later_events(items, cut):
    async with running(items[:cut]) as (app, _, _):
        widgets = [*app.dashboard.panels, app.dashboard.query_one("#header"), app.dashboard.query_one("#footer")]

        def drawn():
            for widget in widgets:
                widget.redraw()
            return [lines(widget) for widget in widgets]

        before = drawn()
        for item in items[cut:]:
            app.view.feed(item)
        assert drawn() == before
        if app.view.header is not None and any(not isinstance(item, Header) for item in items[cut:]):
            app.dashboard.show(app.frame_now)
            assert drawn() != before
