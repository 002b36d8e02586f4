"""Lines that a widget returns to Textual: rendered from changed rows only, and equal to a full rendering."""

from __future__ import annotations

import pytest
from rich.segment import Segment
from textual.strip import Strip

from moe_watch.tui.drawing.colours import DARK, LIGHT
from tests.tui.conftest import press, running, settle
from tests.tui.events import MadeUpRun, header


def handed_out(widget):
    return widget.render_lines(widget.outer_size.region)


def texts(lines):
    return [line.text for line in lines]


@pytest.mark.parametrize("shape", [(6, 8, 2), (32, 8, 2), (48, 128, 8)], ids=["tiles", "halves", "binned"])
@pytest.mark.parametrize("theme", [DARK.name, LIGHT.name, "ansi-dark"])
async def test_lines_are_those_that_textual_would_make(shape, theme):
    run = MadeUpRun(header(*shape))
    async with running(run.prompt(), theme=theme) as (app, pilot, source):
        drawn = [*app.dashboard.panels, app.dashboard.query_one("#header"), app.dashboard.query_one("#footer")]
        for keys in ([], ["2"], ["3"]):  # nothing, then one panel after another has the focus
            source.add(run.generate(25))
            await press(app, pilot, *keys)
            put_together = [handed_out(widget) for widget in drawn]
            for widget, lines in zip(drawn, put_together, strict=True):
                assert len(lines) == widget.outer_size.height
                widget.refresh()
                assert lines == handed_out(widget)


async def test_another_size_gives_lines_of_that_size():
    run = MadeUpRun()
    async with running([*run.prompt(), *run.generate(60)]) as (app, pilot, source):
        await pilot.resize_terminal(200, 60)
        source.add(run.generate(5))
        await settle(app, pilot)
        for widget in app.dashboard.panels:
            lines = handed_out(widget)
            assert [line.cell_length for line in lines] == [widget.outer_size.width] * widget.outer_size.height
            widget.refresh()
            assert lines == handed_out(widget)


async def test_a_row_that_only_moved_keeps_its_line():
    run = MadeUpRun()
    async with running([*run.prompt(), *run.generate(400)]) as (app, pilot, _):
        stream = app.dashboard.stream
        before = handed_out(stream)
        stream.action_scroll_by(-1)
        await pilot.pause()
        after = handed_out(stream)
        assert texts(after)[2:20] == texts(before)[1:19]
        assert all(new is old for new, old in zip(after[2:20], before[1:19], strict=True))


async def test_a_label_is_one_new_line_and_no_new_picture():
    run = MadeUpRun()
    async with running([*run.prompt(), *run.generate(30)]) as (app, pilot, _):
        panel = app.dashboard.vitals
        before = handed_out(panel)
        panel.label("of another machine", (" quite so ", panel.palette.status.warn))
        await pilot.pause()
        after = handed_out(panel)
        assert "of another machine" in after[0].text
        assert "quite so" in after[-1].text
        assert all(new is old for new, old in zip(after[1:-1], before[1:-1], strict=True))


async def test_nothing_acts_in_a_row_that_changed():
    run = MadeUpRun()
    async with running([*run.prompt(), *run.generate(30)]) as (app, pilot, source):
        panel = app.dashboard.stream
        panel.draw = lambda frame, size: [Strip([Segment("a\x1b[2J\u202eb".ljust(size.width))], size.width)]
        source.add(run.generate(1))
        await settle(app, pilot)
        line = handed_out(panel)[1]
        assert "␛[2J⟨202E⟩" in line.text
        assert line.cell_length == panel.outer_size.width
