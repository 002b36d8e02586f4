"""Texts of the bars in each state of a run."""

from __future__ import annotations

from itertools import count

import msgspec
import pytest

from moe_watch.routing.events import Cost, Progress, State
from moe_watch.sessions.source import PaceStatus, RecordingStatus
from tests.tui.conftest import lines, running, settle, shown, toasts
from tests.tui.events import MadeUpRun, header, main_run
from tests.tui.scripted import LIVE, RECORDING, REPLAY, REPLAYING, ManualClock

# Bars


def bar(app, name):
    return lines(app.dashboard.query_one(f"#{name}"))[0]


async def test_the_header_says_what_runs_where_it_goes_and_how_fast():
    async with running(size=(160, 40)) as (app, _, _):
        text = bar(app, "header")
        assert "moe-watch  pocket · MLX · 6 layers × 8 experts, top-2  ▸ streaming" in text
        assert "● REC pocket-20261120-1.moe.jsonl 84 KB · 30.0 tok/s · tap cost n/a" in text
        assert "SIMULATED" not in text


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
async def test_the_header_always_has_room_for_state_recording_and_rate(width):
    async with running(size=(width, 40)) as (app, _, _):
        text = bar(app, "header")
        assert all(word in text for word in ("pocket", "▸ streaming", "● REC", "30.0 tok/s"))
        assert len(text) <= width


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"recording": RecordingStatus("off")}, "○ not recording"),
        ({"origin": REPLAYING}, "▶ REPLAY pocket-20261120-1 2×"),
        ({"recording": RecordingStatus("failed", "x", "/x", 0, "disk full since token 212")}, "recording failed"),
        ({"recording": RECORDING}, "● REC pocket-20261120-1 84 KB"),
    ],
    ids=["off", "replay", "failed", "recording"],
)
async def test_the_header_says_where_the_events_go(options, expected):
    pace = PaceStatus("speed", 2.0, False)
    async with running(main_run(50), pace=pace, **options) as (app, _, _):
        assert expected in bar(app, "header")


async def test_tap_cost_is_a_number_or_has_a_reason():
    cost = Cost(tap_off=100.6, tap_on=100.0, ratio=0.994, interval=(0.989, 0.999))
    async with running(main_run(30, head=header(cost=cost))) as (app, _, _):
        assert "tap +0.6 % [+0.1, +1.1]" in bar(app, "header")
        assert "ratio 0.994 [0.989, 0.999]" in str(app.dashboard.query_one("#header").tooltip)
    async with running(main_run(30)) as (app, _, _):
        assert "tap cost n/a" in bar(app, "header")
        assert "not measured yet" in str(app.dashboard.query_one("#header").tooltip)


@pytest.mark.parametrize("interval", [(1.44, 1.77), (0.9, 2.3), None], ids=["faster", "wide", "none"])
async def test_a_recorded_cost_that_is_too_noisy_is_no_number(interval):
    cost = Cost(tap_off=100.0, tap_on=159.0, ratio=1.59, interval=interval)
    async with running(main_run(30, head=header(cost=cost))) as (app, _, _):
        assert "tap cost too noisy" in bar(app, "header")
        assert "too noisy: " in str(app.dashboard.query_one("#header").tooltip)


async def test_simulated_data_is_called_simulated():
    async with running(main_run(10), simulated=True) as (app, _, _):
        assert bar(app, "header").startswith("  SIMULATED ")


async def test_the_footer_says_where_in_the_context_it_is():
    head = header(model=msgspec.structs.replace(header().model, trained_length=100))
    async with running(main_run(150, head=head), size=(160, 40)) as (app, _, _):
        text = bar(app, "footer")
        assert f"chunk 7 · token {app.view.position} / 2,048" in text
        assert "beyond trained length 100" in text


async def test_the_footer_offers_only_what_can_be_done():
    async with running(main_run(30), abilities=REPLAY, origin=REPLAYING) as (app, _, _):
        text = bar(app, "footer")
        assert "space pause" in text
        assert "go on" not in text
        assert text.count("? help") == 1


async def test_a_click_in_the_footer_does_what_the_key_does():
    async with running(main_run(30)) as (app, pilot, source):
        footer = app.dashboard.query_one("#footer")
        await pilot.click(footer, offset=(bar(app, "footer").index("pause"), 0))
        await settle(app, pilot)
        assert ("pause",) in source.asked


# States


async def test_loading_shows_how_far_it_is_in_bytes():
    items = [Progress(stage="loading", done=12_400_000, total=28_900_000, unit="bytes", note="model.safetensors")]
    async with running(items) as (app, _, _):
        text = shown(app.dashboard.stream)
        assert "loading the model: model.safetensors" in text
        assert "43 %" in text
        assert "12.4 MB of 28.9 MB" in text
        assert "◌ loading 43 %" in bar(app, "header")


async def test_a_failed_run_keeps_its_panels_and_says_what_was_saved():
    run = MadeUpRun()
    items = [*run.prompt(), *run.generate(40), *run.state("error", message="killed by the system (signal 9)")]
    async with running(items, abilities={"restart"}) as (app, _, _):
        banner = lines(app.dashboard.query_one("#banner"))
        assert "killed by the system (signal 9)" in banner[0]
        assert f"saved: {run.i} tokens in pocket-20261120-1.moe.jsonl (84 KB)" in banner[1]
        assert "R restart · q quit" in banner[1]
        assert all(panel.is_on_screen for panel in app.dashboard.panels)
        assert "✗ failed" in bar(app, "header")


@pytest.mark.parametrize(
    ("why", "words"),
    [
        ("eos", "end of text"),
        ("length", "token limit reached"),
        ("context", "the context is full"),
        ("user", "stopped by the user"),
    ],
)
async def test_a_finished_run_says_why_and_what_next(why, words):
    run = MadeUpRun()
    async with running([*run.prompt(), *run.generate(30), *run.state("finished", why=why)]) as (app, _, _):
        banner = lines(app.dashboard.query_one("#banner"))[0]
        assert f"finished: {words}, after {run.i} tokens" in banner
        assert "g go on · N new prompt…" in banner


async def test_a_replay_that_has_ended_says_so():
    async with running(main_run(30), abilities=REPLAY, origin=REPLAYING, ended=True) as (app, _, _):
        assert "finished: end of the recording" in lines(app.dashboard.query_one("#banner"))[0]


async def test_a_run_has_ended_only_when_all_of_it_is_shown():
    clock = count(0.0, 0.02)  # a slow machine: a frame takes in a few items
    async with running(main_run(30), ended=True, clock=lambda: next(clock)) as (app, pilot, _):
        seen = []
        while not app.intake.caught_up:
            seen.append((app.view.tokens, app.dashboard.query_one("#banner").display, bar(app, "header")))
            await settle(app, pilot)
        assert len(seen) > 3
        assert not any(banner or "finished" in header for _, banner, header in seen)
        assert f"after {app.view.tokens} tokens" in lines(app.dashboard.query_one("#banner"))[0]


async def test_a_next_run_that_could_not_begin_lost_nothing_and_asks_for_another_prompt():
    items = [*main_run(30), header(prompt="x" * 99), State(state="error", i=0, t=0.0, message="the prompt is too long")]
    options = {"abilities": LIVE - {"perturb", "turn", "pause"}, "recording": RecordingStatus("off")}
    async with running(items, size=(140, 40), **options) as (app, _, _):
        banner = lines(app.dashboard.query_one("#banner"))
        assert banner[0].strip() == "✗ the prompt is too long"
        assert "this run had not begun" in banner[1]
        assert "N new prompt… · q quit" in banner[1]
        assert "saved" not in banner[1]


@pytest.mark.parametrize("width", [60, 120, 160])
async def test_a_worker_that_is_not_heard_of_is_said_to_be_silent(width):
    run, clock = MadeUpRun(), ManualClock()
    async with running([*run.prompt(), *run.generate(60)], size=(width, 40), clock=clock) as (app, pilot, source):
        for seconds, expected in ((4.9, "▸ streaming"), (2.2, "no news for 7 s")):
            clock.advance(seconds)
            source.add([run.vitals()])  # they are read here, not by the worker
            await settle(app, pilot)
            assert expected in bar(app, "header")
        assert "– tok/s" in bar(app, "header")
        source.add(run.generate(1))
        await settle(app, pilot)
        assert "▸ streaming" in bar(app, "header")


@pytest.mark.parametrize(
    "options",
    [
        {"pace": PaceStatus("rate", 30.0, True)},
        {"abilities": REPLAY, "origin": REPLAYING},
        {"ended": True},
        {"pace": PaceStatus("rate", 0.02, False)},
    ],
    ids=["paused", "replay", "ended", "slow-by-request"],
)
async def test_silence_is_no_news_only_where_a_worker_is_at_work(options):
    clock = ManualClock()
    async with running(main_run(30), clock=clock, **options) as (app, pilot, _):
        clock.advance(60)
        await settle(app, pilot)
        assert "no news" not in bar(app, "header")


async def test_no_banner_while_all_is_well():
    async with running(main_run(30)) as (app, _, _):
        assert not app.dashboard.query_one("#banner").display
        assert toasts(app) == []


@pytest.mark.parametrize("mode", ["recording", "off"])
async def test_events_that_are_in_no_file_are_told_whatever_becomes_of_the_recording(mode):
    status = RecordingStatus(
        mode, "x.2.moe.jsonl", "/x.2.moe.jsonl", 900, "1,200 events before token 500 are in no file"
    )
    async with running(main_run(33), recording=status) as (app, _, _):
        banner = shown(app.dashboard.query_one("#banner"))
        assert "✗ recording incomplete: 1,200 events before token 500 are in no file" in banner
        assert ("● REC with a gap" in lines(app.dashboard.query_one("#header"))[0]) == (mode == "recording")
