"""Placement of panels at every size of the terminal."""

from __future__ import annotations

import pytest

from moe_watch.tui.screens.dashboard import DashboardScreen
from moe_watch.tui.widgets.bars.tabs import TABS
from moe_watch.tui.widgets.bars.too_small import LEAST_HEIGHT, LEAST_WIDTH
from tests.tui.conftest import press, running, settle, shown
from tests.tui.events import MadeUpRun, header, main_run

ONE_COLUMN = (LEAST_WIDTH, 80, 99)
TWO_COLUMNS = (100, 119, 120, 121, 140, 159, 160, 161, 180, 199, 200, 201, 220, 240)
HEIGHTS = (28, 39, 40, 49, 50, 51, 60, 80)
SIZES = [(60, LEAST_HEIGHT), (80, 24), (120, 40), (180, 50), (200, 60)]


async def extents(sizes, panels, *, experts=8):
    """Width and height of each panel, size by size."""
    run = MadeUpRun(header(experts=experts))
    async with running([*run.prompt(), *run.generate(3)], size=(200, 60)) as (app, pilot, _):
        for size in sizes:
            await pilot.resize_terminal(*size)
            await settle(app, pilot)
            yield {name: getattr(app.dashboard, name).outer_size for name in panels}


@pytest.mark.parametrize("widths", [ONE_COLUMN, TWO_COLUMNS], ids=["one-column", "two-columns"])
@pytest.mark.parametrize(("height", "experts"), [(40, 8), (60, 8), (40, 128)])
async def test_no_panel_beside_the_text_gets_narrower_as_the_terminal_gets_wider(widths, height, experts):
    names = ("stream", "experts") if widths is ONE_COLUMN else ("stream", "pressure", "experts")
    seen = [found async for found in extents([(width, height) for width in widths], names, experts=experts)]
    for name in names:
        found = [size[name].width for size in seen]
        assert found == sorted(found), name
        assert min(found) >= (60 if widths is ONE_COLUMN else 40)


async def test_the_text_does_not_get_lower_as_the_terminal_gets_higher():
    seen = [found async for found in extents([(120, height) for height in HEIGHTS], ("stream",))]
    found = [size["stream"].height for size in seen]
    assert found == sorted(found)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("panel", TABS)
async def test_a_maximised_panel_has_all_that_the_bars_leave(size, panel):
    async with running(main_run(66), size=size) as (app, pilot, _):
        board: DashboardScreen = app.dashboard
        await press(app, pilot, str(TABS.index(panel) + 1), "z")
        widget = getattr(board, panel)
        assert board.maximized is widget
        assert widget.outer_size == (size[0], size[1] - 2)
        assert (widget.region.x, widget.region.y) == (0, 1)


@pytest.mark.parametrize("panel", TABS)
async def test_a_maximised_panel_stays_when_the_terminal_changes(panel):
    async with running(main_run(66), size=(120, 40)) as (app, pilot, _):
        board = app.dashboard
        await press(app, pilot, str(TABS.index(panel) + 1), "z")
        for size in ((80, 24), (200, 60), (60, 16)):
            await pilot.resize_terminal(*size)
            await settle(app, pilot)
            assert getattr(board, panel).outer_size == (size[0], size[1] - 2)


@pytest.mark.parametrize("size", [(59, 15), (59, 40), (120, 15), (30, 5)])
async def test_a_maximised_panel_gives_way_where_the_terminal_is_too_small(size):
    async with running(main_run(66), size=(120, 40)) as (app, pilot, _):
        board = app.dashboard
        board.pressure.focus()
        await press(app, pilot, "z")
        await pilot.resize_terminal(*size)
        await settle(app, pilot)
        assert f"60×16 needed, this is {size[0]}×{size[1]}" in shown(board.query_one("#too-small"))
        assert not any(panel.is_on_screen for panel in board.panels)
        assert not board.query_one("#header").is_on_screen
        await pilot.resize_terminal(120, 40)
        await settle(app, pilot)
        assert board.pressure.outer_size == (120, 38)


@pytest.mark.parametrize("maximised", [False, True])
async def test_a_terminal_that_is_too_small_shows_no_banner(maximised):
    run = MadeUpRun()
    items = [*run.prompt(), *run.generate(3), *run.state("error", message="the model's process was killed")]
    async with running(items, size=(120, 40), abilities={"restart"}) as (app, pilot, _):
        board = app.dashboard
        if maximised:
            await press(app, pilot, "z")
        for size in ((59, 15), (120, 40)):
            await pilot.resize_terminal(*size)
            await settle(app, pilot)
            assert board.query_one("#banner").is_on_screen == (size == (120, 40))
            if size == (59, 15):
                assert "60×16 needed, this is 59×15" in shown(board.query_one("#too-small"))


async def test_what_must_not_be_missed_is_shown_above_a_maximised_panel():
    run = MadeUpRun()
    items = [*run.prompt(), *run.generate(30), *run.state("error", message="the model's process was killed")]
    async with running(items, abilities={"restart"}) as (app, pilot, _):
        await press(app, pilot, "z")
        board = app.dashboard
        banner = board.query_one("#banner")
        assert (banner.region.y, banner.outer_size.height) == (1, 2)
        assert board.stream.region.y == 3
        assert board.stream.outer_size.height == 40 - 4
