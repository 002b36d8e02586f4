"""Fresh contexts in the pressure panel: each has a mark, a warm-up and a verdict."""

from __future__ import annotations

import pytest

from moe_watch.routing.half_life.fit import fit_half_life
from moe_watch.routing.half_life.wording import in_words
from tests.tui.conftest import lines, press, running, settle, shown
from tests.tui.events import MadeUpRun, header
from tests.tui.state.test_trends import Slow


def restarted(first, second, *, cut=7, mode="measured-v2", perturbed=False):
    """Return a run of two contexts with these numbers of chunks; the first one ends within a chunk."""
    run = MadeUpRun(header(pressure=mode))
    items = [*run.prompt(), *run.generate(20 * first + cut)]
    if perturbed:
        items += [*run.inject(), *run.generate(30)]
    return [
        *items,
        *run.state("fresh_context", why="context"),
        *run.token("again", "prompt"),
        *run.generate(20 * second),
    ]


def fit_of(track, number):
    series = track.series.context(number)
    return fit_half_life(series.mid, mode=track.mode, positions=series.positions)


@pytest.mark.parametrize("mode", ["measured-v2", "measured-v1"])
async def test_is_marked_where_it_begins(mode):
    async with running(restarted(16, 6, mode=mode), size=(120, 40)) as (app, _, _):
        assert app.view.tracks[mode].restarts[0].chunk == 17
        text = lines(app.dashboard.pressure)
        axis = next(line for line in text if "▸17" in line)
        column = axis.index("▸17") + 1
        assert any("│" in line[column - 2 : column + 2] for line in text)


async def test_has_a_warm_up_of_its_own_and_the_verdict_of_the_one_before_is_named_so():
    async with running(restarted(20, 4), size=(200, 60)) as (app, pilot, _):
        await press(app, pilot, "4", "z")
        text = shown(app.dashboard.pressure)
        track = app.view.tracks["measured-v2"]
        assert "context 1: warm-up 4 of 10 chunks" in text
        assert f"context 0: {in_words(fit_of(track, 0))}" in text
        assert "half" not in text.partition("\n")[2].partition("\n")[0]


async def test_what_it_lacks_after_its_warm_up_is_counted():
    async with running(restarted(20, 12), size=(200, 60)) as (app, pilot, _):
        await press(app, pilot, "4", "z")
        assert "context 1: no verdict: 2 measured chunks, and a fit needs at least 5: 3 more" in shown(
            app.dashboard.pressure
        )


async def test_is_judged_alone_once_it_is_long_enough():
    async with running(restarted(20, 18), size=(200, 60)) as (app, pilot, _):
        await press(app, pilot, "4", "z")
        track = app.view.tracks["measured-v2"]
        fit = fit_of(track, 1)
        text = shown(app.dashboard.pressure)
        assert (fit.first, fit.chunks) == (31, 8)
        assert f"context 1: {in_words(fit)}" in text
        assert f"start {fit.start:.3f}  half {fit.start / 2:.3f}" in text
        assert track.start.initial == track.series.contexts[1].mid[0]


async def test_long_enough_for_a_fit_that_is_not_made_yet_it_lacks_nothing():
    slow, run = Slow(), MadeUpRun()
    before = [*run.prompt(), *run.generate(400)]
    async with running(before, executor=slow, size=(200, 60)) as (app, pilot, source):
        slow.work()
        await press(app, pilot, "4", "z")
        assert "stable: no trend" in shown(app.dashboard.pressure)
        source.add([*run.state("fresh_context", why="context"), *run.generate(320), *run.inject(), *run.generate(60)])
        await settle(app, pilot)
        text = shown(app.dashboard.pressure)
        assert "context 1: computing the first fit" in text
        assert "forecast n/a: still computing" in text
        assert "no verdict" not in text


async def test_nothing_is_said_of_an_injection_into_the_context_before():
    async with running(restarted(16, 3, perturbed=True), size=(200, 60)) as (app, pilot, _):
        await press(app, pilot, "4", "z")
        assert app.view.tracks["measured-v2"].injections.points
        assert "before/after" not in shown(app.dashboard.pressure)


async def test_both_modes_have_the_mark():
    async with running(restarted(16, 3), size=(120, 40)) as (app, pilot, _):
        await press(app, pilot, "p")
        assert "▸17" in shown(app.dashboard.pressure)
        assert [track.restarts[0].chunk for track in app.view.tracks.values() if track.chunks] == [17, 17]


async def test_many_contexts_do_not_hide_the_curve():
    run = MadeUpRun(header(pressure="measured-v2"))
    items = [*run.prompt(), *run.generate(27)]
    for _ in range(40):
        items += [*run.state("fresh_context", why="context"), *run.token("again", "prompt"), *run.generate(26)]
    async with running(items, size=(120, 40)) as (app, _, _):
        assert len(app.view.tracks["measured-v2"].restarts) == 40
        rows = [line.strip("│") for line in lines(app.dashboard.pressure)]
        assert not any("│" in row for row in rows)
        assert sum(row.count("╵") for row in rows) > 10
