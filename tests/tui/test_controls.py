"""Keys that control the run, and the screen after them."""

from __future__ import annotations

import msgspec
import pytest

from moe_watch.routing.events import Change, Chunk, Sampling
from moe_watch.tui.screens.ask import AskScreen
from moe_watch.tui.state.pressure.injections import GO_ON
from tests.tui.conftest import lines, press, running, settle, shown, style_at, toasts
from tests.tui.events import INJECTED, MadeUpRun, at_boundary, main_run, tap_off
from tests.tui.scripted import LIVE, REPLAY, REPLAYING

SIZES = pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)], ids=["80x24", "120x40", "200x60"])


def bar(app, name):
    return lines(app.dashboard.query_one(f"#{name}"))[0]


def changed(run, **what):
    return list(run.followed(Change(i=run.i, t=run.t, **what)))


# Tap


@SIZES
async def test_o_asks_for_the_tap_to_be_off_and_on_again(size):
    run = MadeUpRun()
    async with running([*run.prompt(), *run.generate(30)], size=size) as (app, pilot, source):
        await press(app, pilot, "o")
        assert source.asked[-1] == ("set_tap", False)
        assert "tap off" not in bar(app, "header")  # it has not happened yet
        source.add(changed(run, tap=False))
        await settle(app, pilot)
        assert bar(app, "header").endswith("tap off")
        await press(app, pilot, "o")
        assert source.asked[-1] == ("set_tap", True)
        source.add(changed(run, tap=True))
        await settle(app, pilot)
        assert "tap off" not in bar(app, "header")


@pytest.mark.parametrize("width", [60, 80, 120])
async def test_a_tap_that_is_off_is_said_however_narrow_the_header(width):
    async with running(tap_off()[1], size=(width, 30)) as (app, _, _):
        assert "tap off" in bar(app, "header")


async def test_while_the_tap_is_off_the_panels_keep_what_was_observed_and_say_so():
    run, items = tap_off()
    start = next(item.i for item in items if isinstance(item, Change))
    async with running(items) as (app, _, _):
        board = app.dashboard
        assert app.view.window.tokens == 50
        assert "last 50 observed tokens" in shown(board.experts)
        assert "last 50 observed tokens" in shown(board.entropy)
        for panel in (board.experts, board.entropy):
            assert f"tap off since token {start}" in shown(panel)
        assert "tap off since token" in shown(board.pressure)
        assert "◇ tap off" in shown(board.stream)
        assert app.view.newest is None
        assert f"tap: off, routing is not observed from token {start} on" in str(board.query_one("#header").tooltip)
        assert run.i == app.view.tokens


async def test_churn_is_not_computed_across_a_gap_in_the_tap():
    run, items = tap_off(observed=2)
    async with running(items) as (app, pilot, source):
        before = app.view.window.churn()
        source.add([*changed(run, tap=True), *run.generate(1)])
        await settle(app, pilot)
        assert app.view.window.tokens == 3
        assert app.view.window.churn() == before > 0


async def test_a_run_that_was_never_observed_has_no_heatmap_and_no_pressure_and_says_why():
    run = MadeUpRun()
    items = [run.header, *changed(run, tap=False), *run.unobserved(45)]
    async with running(items) as (app, _, _):
        board = app.dashboard
        assert "no token yet" in shown(board.experts)
        assert "tap off since token 0" in shown(board.experts)
        assert "n/a: tap off since token 0" in shown(board.pressure)


# Multistep


@SIZES
async def test_m_switches_multistep(size):
    run = MadeUpRun()
    async with running([*run.prompt(), *run.generate(30)], size=size) as (app, pilot, source):
        await press(app, pilot, "m")
        assert source.asked[-1] == ("set_multistep", True)
        source.add(changed(run, multistep=True))
        await settle(app, pilot)
        assert app.view.multistep
        await press(app, pilot, "m")
        assert source.asked[-1] == ("set_multistep", False)
        source.add(changed(run, multistep=False))
        await settle(app, pilot)
        assert "◇ multistep off" in shown(app.dashboard.stream)


@SIZES
async def test_a_complete_chunk_waits_and_says_what_goes_on(size):
    _, items = at_boundary()
    async with running(items, size=size) as (app, pilot, source):
        said = bar(app, "banner")
        assert "chunk 1 is complete: space or g continues" in said
        assert "‖ paused" in bar(app, "header")
        assert "space resume" in bar(app, "footer")
        await press(app, pilot, "g")
        assert source.asked[-1] == ("perturb", GO_ON, "raw", False)
        assert "go on queued for the next token" in bar(app, "footer")
        await press(app, pilot, "space")
        assert source.asked[-1] == ("resume",)


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("negative_pressure", "chunk 1 is complete (negative pressure): space or g continues"),
        ("fast_instability", "chunk 1 is complete (fast instability): space or g continues"),
        ("of_another_program", "chunk 1 is complete (of_another_program): space or g continues"),
    ],
)
async def test_why_a_chunk_waits_is_said_in_words(reason, said):
    _, items = at_boundary()
    changed = [msgspec.structs.replace(item, pause=reason) if isinstance(item, Chunk) else item for item in items]
    async with running(changed) as (app, _, _):
        assert said in bar(app, "banner")


async def test_the_banner_goes_when_the_run_goes_on():
    run, items = at_boundary()
    async with running(items) as (app, pilot, source):
        assert app.dashboard.query_one("#banner").display
        source.add([*run.state("resumed", why="user"), *run.generate(1)])
        await settle(app, pilot)
        assert not app.dashboard.query_one("#banner").display


async def test_a_recorded_chunk_pause_offers_nothing_that_a_replay_cannot_do():
    _, items = at_boundary()
    async with running(items, abilities=REPLAY, origin=REPLAYING) as (app, _, _):
        assert "chunk 1 is complete: the run waited here" in bar(app, "banner")


async def test_in_multistep_both_pressure_modes_take_every_chunk_as_a_pause():
    _, items = at_boundary()
    async with running(items) as (app, _, _):
        for mode in ("measured-v2", "chronomoe-v1"):
            chunks = app.view.tracks[mode].chunks
            assert [chunk.pause for chunk in chunks] == ["multistep_chunk_complete"] * 2
            assert [chunk.residual for chunk in chunks] == [0.0, 0.0]


# Injecting


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_exclamation_mark_injects_at_once(size):
    run = MadeUpRun()
    async with running([*run.prompt(), *run.generate(13)], size=size) as (app, pilot, source):
        await press(app, pilot, "exclamation_mark")
        assert source.asked[-1] == ("perturb", GO_ON, "raw", True)
        assert "go on queued for the next token" in bar(app, "footer")
        source.add(run.inject(INJECTED))
        await settle(app, pilot)
        assert "asked for" not in bar(app, "footer")


async def test_shift_g_can_say_it_at_once_and_says_which_it_will_be():
    async with running(main_run(33), size=(80, 24)) as (app, pilot, source):
        await press(app, pilot, "G", *"Hi")
        assert "● at the chunk boundary   ○ at once" in moment(app)
        await press(app, pilot, "ctrl+b")
        assert "○ at the chunk boundary   ● at once" in moment(app)
        await press(app, pilot, "enter")
        assert source.asked[-1] == ("perturb", "Hi", "raw", True)


def moment(app):
    return str(app.screen.query_one("#ask-moment").content)


async def test_shift_g_takes_several_lines():
    async with running(main_run(33), size=(80, 24)) as (app, pilot, source):
        await press(app, pilot, "G", *"one", "ctrl+l", "enter", *"two", "ctrl+s")
        assert source.asked[-1][1] == "one\ntwo"


async def test_several_lines_become_one_again():
    async with running(main_run(33), size=(80, 24)) as (app, pilot, source):
        await press(app, pilot, "G", *"one", "ctrl+l", "enter", *"two", "ctrl+l", "enter")
        assert source.asked[-1][1] == "one two"


async def test_an_earlier_text_of_several_lines_comes_back_whole():
    async with running(main_run(33), size=(80, 24)) as (app, pilot, source):
        await press(app, pilot, "G", *"one", "ctrl+l", "enter", *"two", "ctrl+s")
        await press(app, pilot, "G", "up")
        assert app.screen.lines
        await press(app, pilot, "ctrl+s")
        assert [each[1] for each in source.asked[1:]] == ["one\ntwo", "one\ntwo"]


async def test_up_and_down_leave_an_area_at_its_ends_only():
    async with running(main_run(33), size=(80, 24)) as (app, pilot, source):
        await press(app, pilot, "G", *"old", "enter")
        await press(app, pilot, "N", *"a", "enter", *"b", "up", *"x", "ctrl+s")
        assert source.asked[-1] == ("prompt", "ax\nb")
        await press(app, pilot, "N", "up", "up", "up", "up", "ctrl+s")
        assert source.asked[-1] == ("prompt", "old")


async def test_a_prompt_is_never_one_line_and_has_no_moment():
    async with running(main_run(33)) as (app, pilot, _):
        await press(app, pilot, "N", "ctrl+l", "ctrl+b", "ctrl+t")
        assert isinstance(app.screen, AskScreen)
        assert app.screen.lines
        assert not app.screen.query("#ask-moment")
        assert (app.screen.form, app.screen.at_once) == ("raw", False)


# Impossible actions


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("o", "tap off: not in a replay"),
        ("m", "multistep: not in a replay"),
        ("exclamation_mark", "go on at once: not"),
    ],
)
async def test_in_a_replay_these_keys_say_why(key, words):
    async with running(main_run(33), abilities=REPLAY, origin=REPLAYING) as (app, pilot, source):
        await press(app, pilot, key)
        assert [message[: len(words)] for message in toasts(app)] == [words]
        assert source.asked == [("start",)]


@pytest.mark.parametrize("key", ["o", "m"])
async def test_a_finished_run_cannot_be_switched_and_says_why(key):
    run = MadeUpRun()
    items = [*run.prompt(), *run.generate(5), *run.state("finished", why="eos")]
    async with running(items, abilities=LIVE - {"pause", "tap", "multistep"}) as (app, pilot, source):
        await press(app, pilot, key)
        assert toasts(app)[0].endswith(": the run has finished")
        assert source.asked == [("start",)]


async def test_how_tokens_are_drawn_now_is_in_the_tooltip_and_in_the_stream():
    run = MadeUpRun()
    items = [*run.prompt(), *run.generate(5), *changed(run, sampling=Sampling(temperature=0.7, top_k=40, seed=7))]
    async with running(items) as (app, _, _):
        assert "temperature 0.7, top-p 1, top-k 40, seed 7" in str(app.dashboard.query_one("#header").tooltip)
        assert "◇ temperature 0.7, top-p 1, top-k 40" in shown(app.dashboard.stream)


async def test_help_says_which_pauses_a_mode_cannot_reach():
    async with running(main_run(33)) as (app, pilot, _):
        await press(app, pilot, "question_mark")
        table = app.screen._pauses(8)
        reasons, words = ([str(cell) for cell in column.cells] for column in table.columns)
        assert "never: fast is at least −0.402, needs −0.7" in words
        assert reasons.count("unstable") == 2


async def test_the_accent_marks_a_chunk_that_waits():
    _, items = at_boundary()
    async with running(items) as (app, _, _):
        banner = app.dashboard.query_one("#banner")
        assert style_at(banner, 5, 0).color == banner.palette.accent.color


def test_a_made_up_multistep_run_has_two_chunks():
    assert sum(isinstance(item, Chunk) for item in at_boundary()[1]) == 2
