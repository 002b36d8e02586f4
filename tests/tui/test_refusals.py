"""Refused actions and their messages."""

from __future__ import annotations

import pytest

from moe_watch.routing.events import Marker, Progress, Refused
from moe_watch.tui.input.actions import ACTIONS, GROUP_TITLES
from tests.tui.conftest import lines, press, running, settle, shown, toasts
from tests.tui.events import MadeUpRun, main_run
from tests.tui.scripted import LIVE, REPLAY, REPLAYING, SEEKABLE, ManualClock

REFUSED = "nothing was injected: the text is empty"
ALTERING = "not in a replay, the recording is what it is"


def ended_run(state, **fields):
    run = MadeUpRun()
    return [*run.prompt(), *run.generate(5), *run.state(state, **fields)]


@pytest.mark.parametrize("key", ["plus", "minus", "0", "g", "N", "r", "s", "n", "space"])
async def test_after_the_worker_died_every_key_says_so(key):
    async with running(ended_run("error", message="gone"), abilities={"restart"}) as (app, pilot, _):
        await press(app, pilot, key)
        assert [text.partition(": ")[2] for text in toasts(app)] == ["the worker has ended, R starts a new one"]


@pytest.mark.parametrize(
    ("items", "abilities", "key", "said"),
    [
        ([Progress(stage="loading")], (), "plus", "faster: the model is still being loaded"),
        (ended_run("error"), LIVE - {"perturb", "turn", "pause"}, "g", "go on: the run has failed"),
        (ended_run("finished"), LIVE - {"pause"}, "space", "pause: the run has finished"),
        (ended_run("finished"), LIVE - {"turn"}, "n", "next turn…: this model has no chat template"),
        (main_run(5), LIVE, "R", "restart: the worker runs"),
        (main_run(5), LIVE - {"rate"}, "plus", "faster: the pace of this source cannot be changed"),
    ],
    ids=["loading", "failed", "finished", "no-turns", "worker-runs", "no-pace"],
)
async def test_a_live_run_says_what_stands_in_the_way(items, abilities, key, said):
    async with running(items, abilities=abilities) as (app, pilot, _):
        await press(app, pilot, key)
        assert [text[: len(said)] for text in toasts(app)] == [said]


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("plus", "faster: the recording has ended"),
        ("space", "pause: the recording has ended"),
        ("R", "restart: a replay has no worker"),
        ("s", f"marker…: {ALTERING}"),
    ],
)
async def test_a_replay_at_its_end_says_what_stands_in_the_way(key, said):
    async with running(main_run(5), abilities=(), origin=REPLAYING, ended=True) as (app, pilot, _):
        await press(app, pilot, key)
        assert toasts(app) == [said]


@pytest.mark.parametrize(
    "options",
    [{"abilities": REPLAY, "origin": REPLAYING}, {"abilities": {"restart"}}],
    ids=["replay", "failed"],
)
async def test_help_gives_the_reason_that_the_key_gives(options):
    async with running(ended_run("error"), **options) as (app, pilot, _):
        frame = app.frame_now
        await press(app, pilot, "question_mark")
        explained = [str(cell) for cell in app.screen._keys().columns[1].cells]
        refused = [action for action in ACTIONS if action.shown and not action.offered(frame)]
        assert len(refused) >= 5
        for action in refused:
            assert action.refusal(frame) == f"{action.title}: {action.reason(frame)}"
            before = explained[: explained.index(action.description)]
            why = next(line for line in reversed(before) if line.startswith("not now ("))
            assert why == f"not now ({action.reason(frame)}):"
        for group in {action.group for action in refused}:
            reasons = [action.reason(frame) for action in refused if action.group == group]
            lines = explained[explained.index(GROUP_TITLES[group]) :][: len(ACTIONS)]
            end = next((at for at, line in enumerate(lines) if at and line in GROUP_TITLES.values()), len(lines))
            assert sum(line.startswith("not now") for line in lines[:end]) == len(set(reasons))


@pytest.mark.parametrize(
    ("options", "first"),
    [
        ({"abilities": SEEKABLE, "origin": REPLAYING}, "Seek in a replay"),
        ({}, "Run"),
    ],
    ids=["replay", "live"],
)
async def test_help_begins_with_what_can_be_done(options, first):
    async with running(main_run(5), **options) as (app, pilot, _):
        await press(app, pilot, "question_mark")
        explained = [str(cell) for cell in app.screen._keys().columns[1].cells]
        assert explained[0] == first


async def test_a_refused_injection_is_said_aloud_and_waits_no_longer():
    run = MadeUpRun()
    async with running([*run.prompt(), *run.generate(5)]) as (app, pilot, source):
        await press(app, pilot, "g")
        source.add([Refused(i=run.i, t=run.t, command="inject", why=REFUSED)])
        await settle(app, pilot)
        assert toasts(app) == [REFUSED]
        assert f"⊘ {REFUSED}" in shown(app.dashboard.stream)
        assert "queued" not in lines(app.dashboard.query_one("#footer"))[0]


async def test_the_same_refusal_again_and_again_is_said_once_in_a_while():
    run, clock = MadeUpRun(), ManualClock()
    refusal = Refused(i=run.i, t=run.t, command="inject", why=REFUSED)
    async with running([*run.prompt(), refusal, refusal], clock=clock) as (app, pilot, source):
        assert toasts(app) == [REFUSED]
        clock.advance(10)
        source.add([refusal])
        await settle(app, pilot)
        assert toasts(app) == [REFUSED, REFUSED]


async def test_a_mark_of_ones_own_is_no_refusal():
    run = MadeUpRun()
    async with running([*run.prompt(), *run.generate(5)]) as (app, pilot, source):
        await press(app, pilot, "s", *"here", "enter")
        said = toasts(app)
        source.add([Marker(i=run.i, t=run.t, note="here")])
        await settle(app, pilot)
        assert toasts(app) == said == [f"marked at token {run.i}"]


async def test_a_refusal_in_a_recording_is_only_shown():
    items = [*main_run(5), Refused(i=9, t=1.0, command="inject", why=REFUSED)]
    async with running(items, abilities=REPLAY, origin=REPLAYING) as (app, _, _):
        assert toasts(app) == []
        assert f"⊘ {REFUSED}" in shown(app.dashboard.stream)


async def test_a_mark_with_the_words_of_a_refusal_is_no_refusal():
    """As files of schema 1.1 hold refusals, and as any user may write a note."""
    run = MadeUpRun()
    async with running([*run.prompt(), *run.generate(5)]) as (app, pilot, source):
        source.add([Marker(i=run.i, t=run.t, note=REFUSED)])
        await settle(app, pilot)
        assert toasts(app) == []
        assert f"◆ {REFUSED}" in shown(app.dashboard.stream)


async def test_ctrl_c_says_which_key_quits_and_ctrl_q_does_quit():
    async with running(main_run(5)) as (app, pilot, source):
        await press(app, pilot, "ctrl+c")
        assert toasts(app) == ["q quits, or ctrl+q from anywhere"]
        await pilot.press("ctrl+q")
        await pilot.pause()
    assert source.asked[-1] == ("close",)


async def test_a_key_without_an_action_says_so_once():
    async with running(main_run(5)) as (app, pilot, _):
        await press(app, pilot, "escape", "u")
        assert toasts(app) == ["no action on u: ? shows all keys"]
        await press(app, pilot, "u", "y", "f9")
        assert len(toasts(app)) == 1


async def test_keys_of_the_dashboard_and_of_its_panels_are_no_keys_without_an_action():
    async with running(main_run(5), size=(80, 24)) as (app, pilot, _):
        await press(app, pilot, "tab", "tab", "1", "2", "left", "up", "down", "pageup", "end", "v", "z", "z", "f")
        assert toasts(app) == []


async def test_a_refusal_that_is_on_the_screen_is_not_said_again():
    async with running(main_run(5)) as (app, pilot, _):
        await press(app, pilot, *"[[[[")
        assert toasts(app) == ["marker back: only in a replay"]
