"""Every key, and the command that reached the source."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest
from textual.events import Key

from moe_watch.backends.protocol import PromptShown, PromptToken, RenderedPrompt
from moe_watch.routing.events import Perturbation, TemplateSource
from moe_watch.sessions.source import PaceStatus, RecordingStatus
from moe_watch.tui.drawing.colours import DARK, LIGHT
from moe_watch.tui.input.actions import ACTIONS
from moe_watch.tui.screens.ask import AskScreen
from moe_watch.tui.screens.help import HelpScreen
from moe_watch.tui.state.pace import scale_of
from moe_watch.tui.state.pressure.injections import GO_ON
from moe_watch.tui.widgets.bars.tabs import TABS
from tests.tui.conftest import lines, press, running, settle, shown, toasts
from tests.tui.events import MadeUpRun, main_run
from tests.tui.scripted import LIVE, MODEL, REPLAY, REPLAYING, SEEKABLE


@pytest.fixture
def short():
    return main_run(33)


@pytest.mark.parametrize("abilities", [LIVE, REPLAY], ids=["live", "replay"])
async def test_space_pauses_and_resumes(short, abilities):
    async with running(short, abilities=abilities) as (app, pilot, source):
        await press(app, pilot, "space")
        assert source.asked[-1] == ("pause",)
        assert "‖ paused" in lines(app.dashboard.query_one("#header"))[0]
        assert "space resume" in lines(app.dashboard.query_one("#footer"))[0]
        await press(app, pilot, "space")
        assert source.asked[-1] == ("resume",)


async def test_space_goes_on_after_a_chunk_pause_and_through_a_recorded_one():
    run = MadeUpRun()
    items = [*run.prompt(), *run.generate(20), *run.state("paused", why="chunk")]
    async with running(items) as (app, pilot, source):
        await press(app, pilot, "space")
        assert source.asked[-1] == ("resume",)
    async with running(items, abilities=REPLAY, origin=REPLAYING) as (app, pilot, source):
        await press(app, pilot, "space")
        assert source.asked[-1] == ("pause",)


async def test_g_queues_go_on_until_it_arrives():
    run = MadeUpRun()
    async with running([*run.prompt(), *run.generate(13)]) as (app, pilot, source):
        await press(app, pilot, "g")
        assert source.asked[-1] == ("perturb", GO_ON, "raw", False)
        footer = app.dashboard.query_one("#footer")
        assert "go on queued for the chunk boundary, in 7 tokens" in lines(footer)[0]
        source.add(run.generate(6))
        await settle(app, pilot)
        assert "in 1 token" in lines(footer)[0]
        source.add([*run.generate(1), *run.inject(GO_ON)])
        await settle(app, pilot)
        assert "queued" not in lines(footer)[0]
        assert "⟶ go on" in shown(app.dashboard.stream)


async def test_shift_g_asks_for_the_text(short):
    async with running(short) as (app, pilot, source):
        await press(app, pilot, "G", *"Why?")
        assert isinstance(app.screen, AskScreen)
        await press(app, pilot, "enter")
        assert source.asked[-1] == ("perturb", "Why?", "raw", False)
        assert "say queued" in lines(app.dashboard.query_one("#footer"))[0]


async def test_shift_g_can_say_it_as_a_turn_where_there_are_turns(short):
    async with running(short) as (app, pilot, source):
        await press(app, pilot, "G", *"Hi", "ctrl+t", "enter")
        assert source.asked[-1] == ("perturb", "Hi", "turn", False)
    async with running(short, abilities=LIVE - {"turn"}) as (app, pilot, source):
        await press(app, pilot, "G", *"Hi", "ctrl+t", "enter")
        assert source.asked[-1] == ("perturb", "Hi", "raw", False)


async def test_what_was_said_can_be_said_again(short):
    async with running(short) as (app, pilot, source):
        for text in ("one", "two"):
            await press(app, pilot, "G", *text, "enter")
        await press(app, pilot, "G", "up", "up", "enter")
        assert source.asked[-1][:2] == ("perturb", "one")
        await press(app, pilot, "G", "up", "up", "down", "enter")
        assert source.asked[-1][:2] == ("perturb", "one")


async def test_a_question_can_be_left_and_nothing_empty_is_sent(short):
    async with running(short) as (app, pilot, source):
        await press(app, pilot, "G", *"never", "escape")
        assert not isinstance(app.screen, AskScreen)
        await press(app, pilot, "G", "enter")
        assert isinstance(app.screen, AskScreen)
        assert source.asked == [("start",)]


async def test_n_takes_the_next_turn_at_once(short):
    async with running(short) as (app, pilot, source):
        await press(app, pilot, "n", *"and?", "enter")
        assert source.asked[-1] == ("turn", "and?")


async def answered(pilot, preview, text):
    """Wait until the preview has this text."""
    for _ in range(100):
        if text in str(preview.content):
            return
        await pilot.pause(0.02)
    raise AssertionError(f"the preview is {preview.content}")


async def test_the_next_turn_and_a_prompt_can_be_seen_as_they_are_sent(short):
    async with running(short) as (app, pilot, source):
        await press(app, pilot, "n", *"and?", "ctrl+r")
        assert source.asked[-1] == ("preview", "and?", True)
        preview = app.screen.query_one("#ask-preview-text")
        assert "rendering" in str(preview.content)
        tokens = [PromptToken(7, "<|user|>", True), PromptToken(8, "and?\n\x1b[2J", False)]
        template = TemplateSource(origin="model", sha256="ab12cd34" * 8)
        prompt = RenderedPrompt(tokens=tokens, template=template, kept=1, cut=3, warnings=["the format is odd"])
        source.previews[-1].answer = PromptShown(prompt=prompt)
        await answered(pilot, preview, "tokens")
        assert str(preview.content).splitlines() == [
            "2 tokens · the model's template ab12cd34 · 1 are in the context · 3 would be cut from it",
            "⚠ the format is odd",
            "<|user|>and?⏎",
            "␛[2J",
        ]
        await press(app, pilot, "enter")
        assert source.asked[-1] == ("turn", "and?")
        await press(app, pilot, "N", *"x", "ctrl+r")
        assert source.asked[-1] == ("preview", "x", False)
        source.previews[-1].answer = PromptShown(problem="the chat template fails (no): use --raw")
        preview = app.screen.query_one("#ask-preview-text")
        await answered(pilot, preview, "⚠ the chat template fails (no): use --raw")


async def test_keys_that_arrive_together_are_all_in_what_is_sent(short):
    """A busy machine or a paste delivers the text and the control key in one read."""
    async with running(short) as (app, pilot, source):
        await press(app, pilot, "N")
        for key, character in [*((letter, letter) for letter in "hello"), ("ctrl+r", None), ("ctrl+s", None)]:
            app.post_message(Key(key, character))
        for _ in range(100):
            if not isinstance(app.screen, AskScreen):
                break
            await pilot.pause(0.02)
        assert ("preview", "hello", False) in source.asked
        assert source.asked[-1][1] == "hello"


async def test_only_what_a_template_formats_can_be_seen_before(short):
    async with running(short) as (app, pilot, source):
        await press(app, pilot, "G", *"x", "ctrl+r")
        assert source.previews == []
        assert not app.screen.query_one("#ask-preview").display


async def test_what_a_turn_cut_from_the_context_is_said():
    run = MadeUpRun()
    async with running([*run.prompt(), *run.generate(6)]) as (app, pilot, source):
        kept = run.i - 4
        turn = Perturbation(
            i=run.i, t=run.t, text="and?", ids=[1, 2], form="turn", source="key", kept=kept, cut=4, again=2
        )
        source.add([turn])
        await settle(app, pilot)
        words = "4 tokens cut, 2 evaluated again"
        assert f"◇ {words}" in shown(app.dashboard.stream)
        assert toasts(app)[-1].endswith(words)
        assert app.view.counts.context_start == turn.i - kept


async def test_shift_n_begins_a_run_with_several_lines(short):
    async with running(short) as (app, pilot, source):
        await press(app, pilot, "N", *"one", "enter", *"two", "ctrl+s")
        assert source.asked[-1] == ("prompt", "one\ntwo")


async def test_r_switches_recording(short):
    async with running(short) as (app, pilot, source):
        await press(app, pilot, "r")
        assert source.asked[-1] == ("set_recording", False)
        assert "○ not recording" in lines(app.dashboard.query_one("#header"))[0]
        await press(app, pilot, "r")
        assert source.asked[-1] == ("set_recording", True)


async def test_r_after_a_failure_tries_again(short):
    async with running(short, recording=RecordingStatus("failed", problem="disk full")) as (app, pilot, source):
        await press(app, pilot, "r")
        assert source.asked[-1] == ("set_recording", True)


@pytest.mark.parametrize(("typed", "note"), [("look here", "look here"), ("", "")])
async def test_s_marks_with_a_note(short, typed, note):
    async with running(short) as (app, pilot, source):
        await press(app, pilot, "s", *["space" if key == " " else key for key in typed], "enter")
        assert source.asked[-1] == ("mark", note)
        assert toasts(app) == [f"marked at token {app.view.tokens}"]


async def test_pace_keys_for_a_generation_and_for_a_replay(short):
    async with running(short) as (app, pilot, source):
        await press(app, pilot, "plus", "plus", "minus", "0", "minus")
        assert [value for name, value in source.asked[1:]] == [60, 120, 60, 0, 120]
        assert "pace 120 tok/s" in lines(app.dashboard.query_one("#footer"))[0]
    async with running(short, abilities=REPLAY) as (app, pilot, source):
        await press(app, pilot, "plus", "minus", "minus", *["plus"] * 6)
        assert [value for name, value in source.asked[1:]] == [2, 1, 0.5, 1, 2, 4, 8, 16, 0]
        assert "pace unlimited" in lines(app.dashboard.query_one("#footer"))[0]


@pytest.mark.parametrize("kind", ["rate", "speed"])
def test_paces_are_gone_through_and_end(kind):
    scale = scale_of(PaceStatus(kind, 1.0, False))
    paces = scale.values
    value, seen = paces[0], [paces[0]]
    for _ in paces:
        value = scale.next(value, 1)
        seen.append(value)
    assert tuple(seen) == (*paces, paces[-1])
    assert scale.next(paces[0], -1) == paces[0]
    assert scale.next(paces[-1], -1) == paces[-2]


def test_a_pace_of_ones_own_goes_to_its_neighbours():
    rates = scale_of(PaceStatus("rate", 40.0, False))
    assert rates.next(40.0, 1) == 60.0
    assert rates.next(40.0, -1) == 30.0


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
@pytest.mark.parametrize(
    ("key", "value", "said"),
    [("plus", 60.0, "pace: 60 tok/s"), ("minus", 15.0, "pace: 15 tok/s"), ("0", 0.0, "pace: unlimited")],
)
async def test_a_pace_key_gives_a_sign_also_while_the_run_is_paused_and_text_is_queued(size, key, value, said):
    run = MadeUpRun()
    items = [*run.prompt(), *run.generate(5), *run.state("paused", why="user")]
    async with running(items, size=size) as (app, pilot, source):
        await press(app, pilot, "g", key)
        assert source.asked[-1] == ("set_pace", value)
        assert toasts(app) == [said]


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)])
async def test_what_is_queued_while_the_run_is_paused_says_what_it_waits_for(size):
    run = MadeUpRun()
    items = [*run.prompt(), *run.generate(5), *run.state("paused", why="user")]
    async with running(items, size=size) as (app, pilot, source):
        await press(app, pilot, "g")
        footer = app.dashboard.query_one("#footer")
        assert "go on queued, waits for resume (space)" in shown(footer)
        source.add(run.state("resumed", why="user"))
        await settle(app, pilot)
        assert "go on queued for the chunk boundary, in 15 tokens" in shown(footer)


async def test_shift_r_restarts_a_dead_worker():
    run = MadeUpRun()
    items = [*run.prompt(), *run.state("error", message="gone")]
    async with running(items, abilities={"restart"}) as (app, pilot, source):
        await press(app, pilot, "R")
        assert source.asked[-1] == ("restart",)


async def test_q_quits_and_closes_the_source(short):
    async with running(short) as (_app, pilot, source):
        await pilot.press("q")
        await pilot.pause()
    assert source.asked[-1] == ("close",)


@pytest.mark.parametrize("key", ["question_mark", "f1"])
async def test_help_lists_every_action_and_closes(short, key):
    async with running(short) as (app, pilot, _):
        await press(app, pilot, key)
        assert isinstance(app.screen, HelpScreen)
        await press(app, pilot, "escape")
        assert not isinstance(app.screen, HelpScreen)


async def test_the_palette_offers_what_can_be_done_and_does_it(short):
    async with running(short, abilities=REPLAY) as (app, pilot, source):
        await press(app, pilot, "ctrl+p", *"pause")
        options = app.screen.query_one("CommandList")
        titles = [str(options.get_option_at_index(at).prompt) for at in range(options.option_count)]
        assert titles[0].startswith("pause  (space)")
        assert not any("go on" in title for title in titles)
        await press(app, pilot, "enter")
        assert source.asked[-1] == ("pause",)


async def test_every_offered_action_is_in_the_empty_palette(short):
    async with running(short, abilities=LIVE | {"restart", "seek"}) as (app, pilot, _):
        await press(app, pilot, "ctrl+p")
        options = app.screen.query_one("CommandList")
        text = "\n".join(str(options.get_option_at_index(at).prompt) for at in range(options.option_count))
        missing = [
            action.id for action in ACTIONS if action.id != "palette" and action.caption(app.frame_now) not in text
        ]
        assert missing == ["original"]  # this model is not pruned


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("g", "go on: not in a replay"),
        ("G", "say…: not in a replay"),
        ("n", "next turn…: not in a replay"),
        ("N", "new prompt…: not in a replay"),
        ("r", "record: not in a replay"),
        ("R", "restart: a replay has no worker"),
        ("s", "marker…: not in a replay"),
        ("x", "expert off/on: not in a replay, the recording is what it is"),
        ("X", "all experts on: not in a replay"),
    ],
)
async def test_what_cannot_be_done_says_why(short, key, words):
    async with running(short, abilities=REPLAY, origin=REPLAYING) as (app, pilot, source):
        await press(app, pilot, key)
        assert [message[: len(words)] for message in toasts(app)] == [words]
        assert source.asked == [("start",)]


async def test_a_model_without_turns_says_so(short):
    async with running(short, abilities=LIVE - {"turn"}) as (app, pilot, _):
        await press(app, pilot, "n")
        assert toasts(app) == ["next turn…: this model has no chat template, so there are no turns"]


async def test_numbers_focus_panels_where_all_are_shown_and_tab_goes_on(short):
    async with running(short) as (app, pilot, _):
        board = app.dashboard
        for number, panel in enumerate(board.panels, 1):
            await press(app, pilot, str(number))
            assert app.focused is panel
        await press(app, pilot, "1", "tab")
        assert app.focused is board.pressure


async def test_numbers_and_arrows_go_through_tabs_where_one_panel_fits(short):
    async with running(short, size=(80, 24)) as (app, pilot, _):
        board = app.dashboard
        for number, (tab, panel) in enumerate(zip(TABS, board.panels, strict=True), 1):
            await press(app, pilot, str(number))
            assert board.tab_bar.active == tab
            assert panel.is_on_screen
            others = {other for other in board.panels if other.is_on_screen} - {panel}
            assert others == ({board.experts} if tab == "stream" else set())
        await press(app, pilot, "right")
        assert board.tab_bar.active == "stream"
        await press(app, pilot, "left")
        assert board.tab_bar.active == "vitals"


@pytest.mark.parametrize("abilities", [LIVE, SEEKABLE], ids=["live", "replay"])
async def test_tab_goes_from_panel_to_panel_where_one_fits(short, abilities):
    async with running(short, size=(80, 24), abilities=abilities) as (app, pilot, _):
        board = app.dashboard
        for panel, tab in zip((*board.panels, board.stream), ("stream", "stream", *TABS[2:], "stream"), strict=True):
            await press(app, pilot, "tab")
            assert app.focused is panel
            assert panel.is_on_screen
            assert board.tab_bar.active == tab
        await press(app, pilot, "shift+tab")
        assert board.tab_bar.active == TABS[-1]
        assert app.focused is board.vitals


@pytest.mark.parametrize(("key", "panel"), [("p", "pressure"), ("f", "pressure"), ("t", "pressure"), ("v", "stream")])
@pytest.mark.parametrize("hidden", ["tab", "maximised"])
async def test_a_key_of_a_hidden_panel_shows_it(short, key, panel, hidden):
    async with running(short, size=(80, 24) if hidden == "tab" else (120, 40)) as (app, pilot, _):
        board = app.dashboard
        await press(app, pilot, "3", *(["z"] if hidden == "maximised" else []))
        assert board.entropy.is_on_screen
        assert not getattr(board, panel).is_on_screen
        await press(app, pilot, key)
        await settle(app, pilot)
        assert getattr(board, panel).is_on_screen
        if key == "t":
            assert "fitted curves" in str(board.pressure.border_title)


async def test_a_click_on_a_tab_shows_it(short):
    async with running(short, size=(80, 24)) as (app, pilot, _):
        await pilot.click("#tabs", offset=(lines(app.dashboard.tab_bar)[0].index("pressure"), 0))
        await settle(app, pilot)
        assert app.dashboard.pressure.is_on_screen


@pytest.mark.parametrize("size", [(120, 40), (80, 24)])
async def test_z_maximises_and_restores(short, size):
    async with running(short, size=size) as (app, pilot, _):
        await press(app, pilot, "2", "z")
        experts = app.dashboard.experts
        assert experts.size.width == size[0] - 2 - 2
        assert experts.outer_size.height == size[1] - 2
        assert app.dashboard.query_one("#header").is_on_screen
        await press(app, pilot, "z")
        assert app.dashboard.maximized is None


async def test_a_terminal_that_is_too_small_says_so_and_recovers(short):
    async with running(short, size=(50, 12)) as (app, pilot, _):
        board = app.dashboard
        text = shown(board.query_one("#too-small"))
        assert "60×16 needed, this is 50×12" in text
        assert not any(panel.is_on_screen for panel in board.panels)
        await pilot.resize_terminal(120, 40)
        await settle(app, pilot)
        assert all(panel.is_on_screen for panel in board.panels)
        assert "▌" in shown(board.stream)


async def test_themes_change_at_once(short):
    async with running(short) as (app, pilot, _):
        stream = app.dashboard.stream
        assert stream.palette.text.bgcolor.name == DARK.background
        app.theme = LIGHT.name
        await settle(app, pilot)
        assert stream.palette.text.bgcolor.name == LIGHT.background
        assert stream.render_line(0)._segments[0].style.bgcolor.name == LIGHT.background


async def test_no_colour_at_all_still_shows_everything(short, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    async with running(short) as (app, _, _):
        assert app.no_color
        assert "▀" in shown(app.dashboard.experts)


@pytest.mark.parametrize("abilities", [LIVE, REPLAY, SEEKABLE, {"seek"}, {"restart"}, set()])
@pytest.mark.parametrize("origin", [MODEL, REPLAYING], ids=["live", "replay"])
async def test_of_the_actions_that_share_a_key_one_can_be_done(short, abilities, origin):
    async with running(short, abilities=abilities, origin=origin) as (app, _, _):
        keys = [key for action in ACTIONS if action.offered(app.frame_now) for key in action.keys]
    assert len(set(keys)) == len(keys)
    assert {"n", "0"} == {
        key for key, number in Counter(key for each in ACTIONS for key in each.keys).items() if number > 1
    }


def test_ids_are_unique_and_every_action_is_explained():
    assert len({action.id for action in ACTIONS}) == len(ACTIONS)
    ranks = [action.footer for action in ACTIONS if action.footer and action.id != "help"]
    assert len(set(ranks)) == len(ranks)
    assert all(action.description.endswith(".") for action in ACTIONS)
    assert all(action.lacking for action in ACTIONS if action.needs - {"seek"})


async def test_every_action_is_performed_by_something(short):
    async with running(short) as (app, _, _):
        assert set(app._performers) == {action.id for action in ACTIONS}


async def test_a_paused_source_shows_no_rate(short):
    async with running(short, pace=PaceStatus("rate", 30.0, True)) as (app, _, _):
        assert "– tok/s" in lines(app.dashboard.query_one("#header"))[0]


async def test_a_new_run_forgets_what_was_queued():
    run, other = MadeUpRun(), MadeUpRun()
    async with running([*run.prompt(), *run.generate(5)]) as (app, pilot, source):
        await press(app, pilot, "g")
        assert app.control.queued is not None
        source.add(other.prompt())
        await settle(app, pilot)
        assert app.control.queued is None


async def test_unknown_items_and_missing_headers_do_no_harm():
    token = msgspec.structs.replace(next(item for item in MadeUpRun().token("x", "generated")))
    async with running([token]) as (app, _, _):
        assert "no token yet" in shown(app.dashboard.experts)


async def test_a_warning_of_the_source_is_said_once(short):
    async with running(short) as (app, pilot, source):
        source.warnings.append("the file ends [b]torn[/b]")
        await settle(app, pilot)
        await settle(app, pilot)
        assert toasts(app) == ["the file ends [b]torn[/b]"]
