"""Screen before the first token: the model that is loaded, the time it takes, and no unfounded warning."""

from __future__ import annotations

import pytest

from moe_watch.routing.events import Progress
from moe_watch.sessions.source import Origin, RecordingStatus
from tests.tui.conftest import lines, running, settle, shown, style_at
from tests.tui.events import MadeUpRun
from tests.tui.scripted import ManualClock

OFF = RecordingStatus("off")
SIZES = pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)], ids=["80x24", "120x40", "200x60"])


def loading(done=None, total=None, note=None):
    return Progress(stage="reading", done=done or 0, total=total, unit="bytes" if total else None, note=note)


@SIZES
@pytest.mark.parametrize(
    ("typed", "named"),
    [
        ("pocket", "pocket"),
        ("./models/my-moe/", "my-moe"),
        ("/data/my.gguf", "my.gguf"),
        ("allenai/OLMoE-1B-7B", "OLMoE-1B-7B"),
    ],
)
async def test_the_model_that_was_asked_for_is_named_while_it_is_loaded(size, typed, named):
    origin = Origin("model", model=typed)
    async with running([loading()], size=size, abilities=(), origin=origin, recording=OFF) as (app, _, _):
        header = lines(app.dashboard.query_one("#header"))[0]
        assert f" {named} " in header
        assert "no model yet" not in header


async def test_nothing_is_amber_before_anything_can_be_recorded():
    clock = ManualClock()
    run = MadeUpRun()
    async with running([loading()], abilities=(), recording=OFF, clock=clock) as (app, pilot, source):
        header = app.dashboard.query_one("#header")
        column = lines(header)[0].index("○ not recording")
        assert style_at(header, column, 0).color == app.dashboard.stream.palette.muted.color
        source.add([*run.prompt(), *run.generate(1)])
        await settle(app, pilot)
        column = lines(header)[0].index("○ not recording")
        assert style_at(header, column, 0).color == app.dashboard.stream.palette.status.warn.color


@SIZES
async def test_how_long_loading_takes_is_told_once_it_takes_long(size):
    clock = ManualClock()
    async with running([loading(1_000, 8_000)], size=size, abilities=(), clock=clock) as (app, pilot, source):
        stream = app.dashboard.stream
        assert "elapsed" not in shown(stream)
        clock.advance(10)
        source.add([loading(2_000, 8_000)])
        await settle(app, pilot)
        assert "0:10 elapsed, about 0:30 left" in shown(stream)
        source.add([loading(note="another stage")])
        await settle(app, pilot)
        assert "elapsed" not in shown(stream)
        clock.advance(65)
        await settle(app, pilot)
        assert "1:05 elapsed" in shown(stream)
        assert "left" not in shown(stream)


@SIZES
async def test_what_else_the_first_evaluation_does_is_said_in_words(size):
    note = "on first use on a machine, MLX compiles its kernels: some 20 s"
    header = next(iter(MadeUpRun().prompt()))
    progress = Progress(stage="prefill", done=0, total=6, unit="tokens", note=note)
    async with running([header, progress], size=size) as (app, _, _):
        text = " ".join(line.strip("│ ") for line in lines(app.dashboard.stream))
        assert note in " ".join(text.split())


@SIZES
async def test_a_silent_first_evaluation_is_explained_where_the_prompt_is_shown_already(size):
    note = "on first use on a machine, MLX compiles its kernels: some 20 s"
    run, clock = MadeUpRun(), ManualClock()
    progress = Progress(stage="prefill", done=6, total=6, unit="tokens", note=note)
    async with running([*run.prompt(), progress], size=size, clock=clock) as (app, pilot, source):
        banner = app.dashboard.query_one("#banner")
        assert not banner.display
        clock.advance(20)
        await settle(app, pilot)
        assert note in shown(banner)
        source.add(run.generate(1))
        await settle(app, pilot)
        assert not banner.display


async def test_no_time_is_left_to_tell_of_what_is_done():
    clock = ManualClock()
    async with running([loading(8_000, 8_000)], abilities=(), clock=clock) as (app, pilot, _):
        clock.advance(7)
        await settle(app, pilot)
        assert "0:07 elapsed" in shown(app.dashboard.stream)
        assert "left" not in shown(app.dashboard.stream)
