"""Seeking in a replay: the screen after a seek, the keys, and the timeline."""

from __future__ import annotations

import itertools
from contextlib import asynccontextmanager

import msgspec
import pytest

from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Change, Chunk, Keyframe, Marker, Perturbation, Token, to_json
from moe_watch.sessions.replaying.seeking import WINDOW_TOKENS
from moe_watch.sessions.replaying.source import ReplaySource
from moe_watch.sessions.source import END, HOME, Jump, PaceStatus, Timeline
from moe_watch.tui.app import MoeWatchApp
from moe_watch.tui.input.seeking import GRACE_SECONDS, parse_jump, stop_beside
from moe_watch.tui.state.run import RunView
from tests.tui.conftest import AtOnce, lines, press, running, settle, shown, toasts
from tests.tui.events import MadeUpRun, header, main_run
from tests.tui.scripted import LIVE, REPLAYING, SEEKABLE, ManualClock

PARTS = ("header", "banner", "timeline", "footer", "experts", "entropy", "pressure", "vitals")


def eventful():
    """A run with everything that a screen shows of the past: marks, injections, a fresh context, changes, readings."""
    run = MadeUpRun(header())

    def mark(note):
        return run.followed(Marker(i=run.i, t=run.t, note=note))

    return [
        *run.prompt(),
        *run.generate(330),
        *mark("first"),
        *run.inject(),
        *run.generate(400),
        *run.followed(Change(i=run.i, t=run.t, multistep=True)),
        *run.generate(313),
        *run.state("fresh_context", why="context"),
        *run.generate(500),
        *mark("second"),
        *run.generate(700),
        *run.inject("And then?"),
        *run.generate(45),
        *run.state("finished", why="length"),
    ]


@pytest.fixture(scope="module")
def events():
    return eventful()


def written(path, events):
    path.write_bytes(b"".join(to_json(event) + b"\n" for event in events))
    return path


@pytest.fixture(scope="module")
def path(events, tmp_path_factory):
    return written(tmp_path_factory.mktemp("seeking") / "run.moe.jsonl", events)


@asynccontextmanager
async def replaying(path, *, size=(120, 40)):
    """The app on a held replay of a file, and its pilot."""
    clock = ManualClock()
    source = ReplaySource(path, clock)
    source.pause()
    app = MoeWatchApp(source, clock=clock, fps=None, executor=AtOnce())
    async with app.run_test(size=size, notifications=True) as pilot:
        await settle(app, pilot)
        yield app, pilot


async def landed(app, pilot):
    """Draw until a seek is complete."""
    before = None
    while before != (before := (app.view.runs, app.view.tokens, app.view.chunks)):
        await settle(app, pilot)


async def jumped(app, pilot, *arguments):
    app.source.seek(Jump(*arguments) if len(arguments) > 1 else arguments[0])
    await landed(app, pilot)


def cut(events, i):
    """Return the position in the items of token `i`."""
    return next((at for at, event in enumerate(events) if isinstance(event, Token) and event.i >= i), len(events))


def keyframe_before(events, i):
    """Return the keyframe that a seek to token `i` starts from."""
    return [event for event in events if isinstance(event, Keyframe) and event.i <= i - WINDOW_TOKENS][-1]


def screen(app):
    return {name: shown(app.dashboard.query_one(f"#{name}")) for name in PARTS}


def tail_below(rule, text):
    """Return the lines below a rule, without the first ones: their wrapping depends on where the text begins."""
    found = text.split("\n")
    at = next(at for at, line in enumerate(found) if rule in line)
    return found[at + 5 :]


# Screen after a seek


@pytest.mark.parametrize("i", [0, 60, 255, 365, 1000, 1285, 1340, 1700, 2100, 2360])
async def test_a_screen_after_a_jump_is_that_of_a_straight_replay(events, path, i):
    async with replaying(path) as (app, pilot):
        await jumped(app, pilot, END)
        await jumped(app, pilot, "token", i)
        source = app.source
        seen, stream, view = screen(app), shown(app.dashboard.stream), app.view
    status = {"origin": source.origin, "pace": source.pace, "abilities": SEEKABLE, "timeline": source.timeline}
    status["ended"] = i >= source.timeline.tokens
    if status["ended"]:
        status["abilities"] = {"seek"}
    async with running(events[: cut(events, i)], executor=AtOnce(), **status) as (straight, _, _):
        assert screen(straight) == seen
        assert (view.decoded, view.position, view.multistep) == (
            straight.view.decoded,
            straight.view.position,
            straight.view.multistep,
        )
        whole = shown(straight.dashboard.stream)
        if "is not shown after a seek" in stream:
            tail = tail_below("is not shown after a seek", stream)
            assert len(tail) > 5
            assert whole.split("\n")[-len(tail) :] == tail
        else:
            assert whole == stream


async def test_text_before_the_keyframe_is_said_to_be_missing_and_old_marks_do_not_pile_up(events, path):
    async with replaying(path) as (app, pilot):
        await jumped(app, pilot, "token", 2000)
        base = keyframe_before(events, 2000).i
        await press(app, pilot, *["pageup"] * 40)
        stream = shown(app.dashboard.stream)
        assert f"text before token {base:,} is not shown after a seek" in stream
        assert [piece.role for piece in app.view.pieces][:2] == ["jump", "generated"]
        assert not any(piece.i < base for piece in app.view.pieces)


async def test_the_other_mode_has_no_chunks_before_the_keyframe_and_says_so(events, path):
    base = keyframe_before(events, 2000)
    async with replaying(path) as (app, pilot):
        await press(app, pilot, "p")
        await jumped(app, pilot, "token", 2000)
        pressure = shown(app.dashboard.pressure)
        assert f"computed here from token {base.i:,} on, not recorded" in pressure
        assert f"no P₀: computed from token {base.i:,} on, after a seek" in pressure
        assert app.view.tracks["chronomoe-v1"].chunks[0].index == base.chunks
        await jumped(app, pilot, HOME)
        await jumped(app, pilot, "token", 300)
        assert "computed here, not recorded" in shown(app.dashboard.pressure)


async def test_injections_keep_their_chunks_in_both_modes_even_where_they_cut_one_short(events, path):
    straight = RunView()
    for item in events:
        straight.feed(item)
    expected = [(event.index + 1, event.partial) for event in events if isinstance(event, Chunk) and event.partial][:1]
    async with replaying(path) as (app, pilot):
        await jumped(app, pilot, "token", 1800)
        assert app.view.pieces[0].role == "jump"
        for mode, track in app.view.tracks.items():
            places = [(each.chunk, each.i) for each in track.injections.points]
            assert places == [(each.chunk, each.i) for each in straight.tracks[mode].injections.points][:1]
            assert places[0][0] == expected[0][0]


async def test_a_recording_that_begins_in_mid_run_says_where_and_does_not_know_its_start(tmp_path):
    run = MadeUpRun()
    list(run.prompt())
    list(run.generate(1500))
    items = [run.header, run._instruments.keyframe(), *run.generate(1800)]
    path = written(tmp_path / "late.moe.jsonl", items)
    async with replaying(path) as (app, pilot):
        await jumped(app, pilot, "token", 1600)
        assert f"the recording begins at token {items[1].i:,}" in shown(app.dashboard.stream)
        begun = app.view.tracks["measured-v2"]
        await jumped(app, pilot, END)
        entered = app.view.tracks["measured-v2"]
        assert begun is not entered
        for track in (begun, entered):
            assert track.start.initial is None
            assert track.unavailable == f"the recording begins at chunk {items[1].chunks}, after the first measured one"


async def test_a_step_within_a_chunk_keeps_the_fit(path):
    async with replaying(path) as (app, pilot):
        await jumped(app, pilot, "token", 1705)
        trend = app.frame_now.trend
        fits = AtOnce()
        app.trends._executor = fits
        await press(app, pilot, "comma")
        await landed(app, pilot)
        assert app.view.tokens == 1704
        assert app.frame_now.trend.fit is trend.fit


# Keys


def timeline(position=100, *, marks=(), injections=(), tokens=1000):
    return Timeline(
        first=0,
        tokens=tokens,
        seconds=100.0,
        position=position,
        time=position / 10,
        chunks=50,
        marks=[Marker(i=i, t=i / 10, note="x") for i in marks],
        perturbations=[Perturbation(i=i, t=i / 10, text="x", ids=[1], form="raw", source="key") for i in injections],
    )


@pytest.mark.parametrize(
    ("key", "jumps"),
    [
        ("left", [Jump("time", -5.0, relative=True)]),
        ("right", [Jump("time", 5.0, relative=True)]),
        ("home", [HOME]),
        ("end", [END]),
        ("left_square_bracket", [Jump("token", 40)]),
        ("right_square_bracket", [Jump("token", 700)]),
        *((str(digit), [Jump("token", 100 * digit)]) for digit in range(10)),
    ],
)
@pytest.mark.parametrize("size", [(120, 40), (80, 24)], ids=["wide", "narrow"])
async def test_keys_that_seek(key, jumps, size):
    there = timeline(marks=[40, 800], injections=[20, 700])
    async with running(main_run(33), size=size, abilities=SEEKABLE, origin=REPLAYING, timeline=there) as (
        app,
        pilot,
        source,
    ):
        await press(app, pilot, key)
        assert [asked[1] for asked in source.asked if asked[0] == "seek"] == jumps
        assert not source.pace.paused


@pytest.mark.parametrize(("key", "to"), [("comma", -1), ("full_stop", 1)])
async def test_steps_hold_playback(key, to):
    async with running(main_run(33), abilities=SEEKABLE, origin=REPLAYING, timeline=timeline()) as (
        app,
        pilot,
        source,
    ):
        await press(app, pilot, key)
        assert source.asked[1:] == [("pause",), ("seek", Jump("token", to, relative=True))]


async def test_steps_show_one_token_more_or_less(path):
    async with replaying(path) as (app, pilot):
        await jumped(app, pilot, "token", 50)
        for key, tokens in [("full_stop", 51), ("full_stop", 52), ("comma", 51)]:
            await press(app, pilot, key)
            await landed(app, pilot)
            assert app.view.tokens == tokens


async def test_the_end_can_be_left_again(path):
    async with replaying(path) as (app, pilot):
        await press(app, pilot, "end")
        await landed(app, pilot)
        footer = app.dashboard.query_one("#footer")
        assert "finished: token limit reached" in shown(app.dashboard.query_one("#banner"))
        assert "← 5 s back" in lines(footer)[0]
        await press(app, pilot, "left_square_bracket")
        await landed(app, pilot)
        assert app.view.tokens == app.source.timeline.perturbations[-1].i


async def test_no_mark_further_on_is_said(path):
    async with replaying(path) as (app, pilot):
        await press(app, pilot, "left_square_bracket")
        assert toasts(app) == ["no marker or injection before this token"]
        await press(app, pilot, "end")
        await landed(app, pilot)
        await press(app, pilot, "right_square_bracket")
        assert toasts(app)[-1] == "no marker or injection after this token"


async def test_end_follows_a_text_that_was_scrolled_back_before_it_jumps(path):
    async with replaying(path) as (app, pilot):
        await jumped(app, pilot, "token", 900)
        await press(app, pilot, "pageup")
        assert app.dashboard.stream.top is not None
        await press(app, pilot, "end")
        assert app.dashboard.stream.top is None
        assert app.view.tokens == 900
        await press(app, pilot, "end")
        await landed(app, pilot)
        assert app.view.tokens == app.source.timeline.tokens


async def test_arrows_move_the_cursor_of_a_focused_heatmap(path):
    async with replaying(path) as (app, pilot):
        await jumped(app, pilot, "token", 900)
        app.dashboard.experts.focus()
        await press(app, pilot, "right")
        assert app.dashboard.experts.cursor is not None
        assert app.view.tokens == 900


@pytest.mark.parametrize("key", ["left", "comma", "right_square_bracket", "j", "home", "slash", "9"])
async def test_a_live_run_cannot_be_moved_about_in(key):
    async with running(main_run(33), abilities=LIVE) as (app, pilot, source):
        await press(app, pilot, key)
        assert source.asked == [("start",)]
        assert not app.dashboard.query_one("#timeline").display
        assert all("only in a replay" in toast for toast in toasts(app))
        assert bool(toasts(app)) == (key != "left")


@pytest.mark.parametrize(
    ("text", "jump"),
    [
        ("1200", Jump("token", 1200)),
        (" 1,200 ", Jump("token", 1200)),
        ("30%", Jump("token", 300)),
        ("12.5 %", Jump("token", 125)),
        ("1:30", Jump("time", 90.0)),
        ("1:00:05", Jump("time", 3605.0)),
        ("90s", Jump("time", 90.0)),
    ],
)
def test_places_as_a_person_writes_them(text, jump):
    assert parse_jump(text, timeline()) == jump


@pytest.mark.parametrize("text", ["", "x", "-5", "1:2:3:4", "%", ",", "1e9", "١٢"])
def test_what_is_no_place_is_refused(text):
    with pytest.raises(UserError, match="is no place in a recording"):
        parse_jump(text, timeline())


async def test_j_asks_where_to_go(path):
    async with replaying(path) as (app, pilot):
        await press(app, pilot, "j", *"50%", "enter")
        await landed(app, pilot)
        assert app.view.tokens == round(app.source.timeline.tokens / 2)
        await press(app, pilot, "j", *"soon", "enter")
        assert toasts(app) == ["'soon' is no place in a recording: write a token like 1200, 30%, 1:30 or 90s"]


def test_while_playing_the_mark_just_passed_is_not_gone_back_to():
    there = timeline(105, marks=[40, 100])
    assert stop_beside(there, -1, playing=False) == Jump("token", 100)
    assert there.time - 10.0 < GRACE_SECONDS
    assert stop_beside(there, -1, playing=True) == Jump("token", 40)
    assert stop_beside(timeline(100, marks=[100]), 1, playing=True) is None


# The timeline


@pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=["narrow", "wide"])
async def test_the_timeline_has_time_token_and_ticks(size):
    there = timeline(500, marks=[250], injections=[750, 999])
    async with running(main_run(33), size=size, abilities=SEEKABLE, origin=REPLAYING, timeline=there) as (app, _, _):
        (row,) = lines(app.dashboard.query_one("#timeline"))
        assert row.startswith(" 0:50 / 1:40 ")
        assert row.endswith(" token 500 of 1,000")
        start, cells = app.dashboard.query_one("#timeline")._bar
        bar = row[start : start + cells]
        assert {sign: [at for at, each in enumerate(bar) if each == sign] for sign in "●◆▴"} == {
            "●": [round(0.5 * (cells - 1))],
            "◆": [round(0.25 * (cells - 1))],
            "▴": [round(0.75 * (cells - 1)), cells - 1],
        }


async def test_click_and_drag_go_there_once_per_frame():
    there = timeline(500)
    async with running(main_run(33), abilities=SEEKABLE, origin=REPLAYING, timeline=there) as (app, pilot, source):
        start, cells = app.dashboard.query_one("#timeline")._bar
        await pilot.mouse_down("#timeline", offset=(start, 0))
        for x in range(start, start + cells, 7):
            await pilot.hover("#timeline", offset=(x, 0))
        await pilot.mouse_up("#timeline", offset=(start + cells - 1, 0))
        assert source.asked == [("start",)]
        await settle(app, pilot)
        ((_, jump),) = source.asked[1:]
        assert jump.unit == "token"
        assert jump.to > 900
        await pilot.hover("#timeline", offset=(start, 0))
        await settle(app, pilot)
        assert len(source.asked) == 2


async def test_a_click_in_a_real_replay_shows_that_place(path):
    async with replaying(path) as (app, pilot):
        start, cells = app.dashboard.query_one("#timeline")._bar
        await pilot.click("#timeline", offset=(start + cells // 2, 0))
        await landed(app, pilot)
        share = app.view.tokens / app.source.timeline.tokens
        assert share == pytest.approx(0.5, abs=1 / cells)


async def test_the_timeline_stays_when_a_panel_is_maximised():
    async with running(main_run(33), abilities=SEEKABLE, origin=REPLAYING, timeline=timeline()) as (app, pilot, _):
        board = app.dashboard
        board.experts.focus()
        await press(app, pilot, "z")
        assert board.query_one("#timeline").is_on_screen
        assert board.query_one("#footer").is_on_screen
        assert board.experts.outer_size.height == 40 - 3


async def test_the_speed_is_shown_and_playback_resumes_after_a_jump(path):
    async with replaying(path) as (app, pilot):
        await press(app, pilot, "plus", "right", "space")
        assert app.source.pace == PaceStatus("speed", 2.0, False)
        await landed(app, pilot)
        shown_at = app.view.tokens
        app._clock.advance(1.0)
        await landed(app, pilot)
        assert app.view.tokens > shown_at > 0


def test_equal_runs_have_equal_events():
    assert [msgspec.json.encode(event) for event in itertools.islice(eventful(), 400)] == [
        msgspec.json.encode(event) for event in itertools.islice(eventful(), 400)
    ]


@pytest.mark.parametrize("paused", [False, True], ids=["playing", "paused"])
@pytest.mark.parametrize("key", ["space", "home"])
async def test_a_replay_at_its_end_is_played_again(path, key, paused):
    async with replaying(path) as (app, pilot):
        if not paused:
            await press(app, pilot, "space")
        await press(app, pilot, "end")
        await landed(app, pilot)
        assert app.frame_now.at_end
        assert "space play again · home beginning" in shown(app.dashboard.query_one("#banner"))
        assert "space play again" in shown(app.dashboard.query_one("#footer"))
        await press(app, pilot, key)
        await landed(app, pilot)
        assert app.view.tokens < app.source.timeline.tokens
        assert not app.dashboard.query_one("#banner").display
        assert app.source.pace.paused == (paused and key == "home")


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_what_is_said_does_not_cover_the_timeline(path, size):
    async with replaying(path, size=size) as (app, pilot):
        await press(app, pilot, "g", "left_square_bracket")
        await pilot.pause()
        assert len(toasts(app)) == 2
        timeline = app.dashboard.query_one("#timeline")
        for toast in app.screen.query("Toast"):
            assert toast.region.height > 0
            assert not toast.region.overlaps(timeline.region)
