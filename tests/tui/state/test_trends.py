"""Verdict on a pressure trajectory: computed in an executor, shown with its age, equal live and in a replay."""

from __future__ import annotations

import re
from concurrent.futures import Executor, Future

import pytest

from moe_watch.routing.half_life.fit import fit_half_life, in_words
from moe_watch.routing.half_life.wording import by_weight
from moe_watch.routing.pressure.external_energy import boundaries_of, external_energy
from moe_watch.tui.state.pressure.trends import REST
from moe_watch.tui.widgets.panels.pressure.pause_reasons import pause_reasons
from tests.routing.planted import REAL_NOISE, constant, plant
from tests.tui.conftest import lines, press, running, settle, shown, style_at
from tests.tui.events import MadeUpRun, decay, falling_at_24, forks, halving, main_run, with_mid
from tests.tui.scripted import REPLAY, REPLAYING, ManualClock

PERSISTENT = [0.46] * 10 + next(plant(constant(0.46), 0.5, range(1, 2), sd=REAL_NOISE)).mid
"""P_mid by chunk: ten of warm-up, then a flat series with persistent noise."""


class Slow(Executor):
    """Executor that holds all work back until `work` is called."""

    def __init__(self):
        self.waiting = []

    def submit(self, work, /, *arguments, **named):
        done = Future()
        self.waiting.append((done, work, arguments))
        return done

    def work(self):
        """Do the waiting work."""
        waiting, self.waiting = self.waiting, []
        for done, work, arguments in waiting:
            done.set_result(work(*arguments))


def expected_fit(app, mode="measured-v2"):
    series = app.view.tracks[mode].series
    return fit_half_life(series.mid, mode=mode, positions=series.positions)


# The verdict


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)], ids=["80x24", "120x40", "200x60"])
async def test_the_verdict_is_in_words_with_its_interval(size):
    async with running(decay(), size=size) as (app, pilot, _):
        await press(app, pilot, "4")
        words = in_words(expected_fit(app))
        assert words.startswith("exponential, half-life ")
        assert "(95 %: " in words
        assert words in shown(app.dashboard.pressure)


async def test_a_replay_comes_to_the_same_verdict_and_the_same_picture():
    items, pictures = decay(), []
    for options in ({}, {"abilities": REPLAY, "origin": REPLAYING}):
        async with running(items, **options) as (app, _, _):
            pictures.append(shown(app.dashboard.pressure))
    assert pictures[0] == pictures[1]


async def test_the_verdict_does_not_depend_on_when_it_was_first_asked_for():
    run_at_once, in_parts = decay(), decay()
    half = len(in_parts) // 2
    async with running(run_at_once) as (app, _, _):
        expected = shown(app.dashboard.pressure)
    async with running(in_parts[:half]) as (app, pilot, source):
        source.add(in_parts[half:])
        await settle(app, pilot)
        assert shown(app.dashboard.pressure) == expected


@pytest.mark.parametrize(("tokens", "missing"), [(200, "5 more"), (240, "3 more"), (280, "1 more")])
async def test_before_there_can_be_a_verdict_the_missing_chunks_are_counted(tokens, missing):
    async with running(main_run(tokens, tokens)) as (app, _, _):
        assert missing in shown(app.dashboard.pressure)


async def test_a_mode_that_cannot_fall_to_half_is_unreachable_with_both_numbers():
    async with running(decay(), size=(80, 24)) as (app, pilot, _):
        await press(app, pilot, "4", "p")
        fit = expected_fit(app, "chronomoe-v1")
        assert fit.verdict == "unreachable"
        said = f"unreachable: ChronoMoE's rule cannot fall below 0.179, half is {fit.reach.half:.3f}"
        assert said in shown(app.dashboard.pressure)
        assert "possible 0.18 to 0.33" in shown(app.dashboard.pressure)


# The picture


async def test_the_fitted_curve_and_its_band_are_drawn():
    noisy = with_mid(main_run(900, 700), lambda chunk: halving(chunk) + 0.05 * (chunk % 3))
    async with running(noisy, size=(200, 60)) as (app, _, _):
        panel = app.dashboard.pressure
        chart = [segment for y in range(1, panel.content_size.height) for segment in panel.render_line(y)]
        ink = panel.palette
        assert ink.chart.fit.color in {segment.style.color for segment in chart if segment.text.strip()}
        assert ink.chart.shade.bgcolor in {segment.style.bgcolor for segment in chart}


async def test_nothing_fitted_is_drawn_before_there_is_a_fit():
    async with running(main_run(240, 240)) as (app, _, _):
        panel = app.dashboard.pressure
        chart = [segment for y in range(panel.content_size.height) for segment in panel.render_line(y)]
        assert panel.palette.chart.shade.bgcolor not in {segment.style.bgcolor for segment in chart}


async def test_a_cliff_is_a_mark_at_its_chunk():
    async with running(with_mid(main_run(900, 700), falling_at_24)) as (app, _, _):
        text = lines(app.dashboard.pressure)
        assert any("cliff, half-life 14.0 chunks" in line for line in text)
        axis = next(y for y, line in enumerate(text) if "▾24" in line)
        column = text[axis].index("▾24") + 1
        posts = [y for y in range(axis) if text[y][column : column + 1] == "╎"]
        assert posts
        assert (
            style_at(app.dashboard.pressure, column, posts[0]).color == app.dashboard.pressure.palette.status.warn.color
        )


# The four candidates


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)], ids=["80x24", "120x40", "200x60"])
async def test_t_shows_all_candidates_with_their_weights_and_back(size):
    async with running(decay(), size=size) as (app, pilot, _):
        await press(app, pilot, "4", "t")
        text = shown(app.dashboard.pressure)
        fit = expected_fit(app)
        for candidate in fit.candidates:
            row = next(line for line in text.splitlines() if candidate.shape in line)
            assert f"{100 * candidate.weight:.0f} %" in row
            assert f"{candidate.aicc:.1f}".replace("-", "−") in row
            assert ("●" in row) == (candidate.shape == fit.chosen.shape)
        assert "unstable  never: fast is at least −0.402, needs −0.7" in text
        await press(app, pilot, "t")
        assert "AICc" not in shown(app.dashboard.pressure)


def persistent(chunk):
    """P_mid of a flat series with noise so persistent that a cliff fits it best."""
    return PERSISTENT[chunk]


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)], ids=["80x24", "120x40", "200x60"])
async def test_curves_are_sorted_by_weight_and_why_the_likeliest_was_not_believed_is_said(size):
    async with running(with_mid(main_run(900, 700), persistent), size=size) as (app, pilot, _):
        await press(app, pilot, "4", "t")
        fit, text = expected_fit(app), lines(app.dashboard.pressure)
        best = by_weight(fit)[0].shape
        assert (fit.verdict, best) == ("stable", "cliff")
        names = [next(word for word in line.split() if word not in "●") for line in text[1:5]]
        assert names == [each.shape for each in by_weight(fit)]
        assert text[5].startswith("cliff rejected: noise alone gives such curves")


@pytest.mark.parametrize("curve", [halving, falling_at_24, lambda _: 0.5], ids=["exponential", "cliff", "stable"])
async def test_there_is_one_half_on_the_panel(curve):
    async with running(with_mid(main_run(900, 700), curve), size=(200, 60)) as (app, pilot, _):
        await press(app, pilot, "4", "z")
        half = f"{expected_fit(app).start / 2:.3f}"
        found = re.findall(r"half (?:of its start )?\(?(\d\.\d+)", shown(app.dashboard.pressure))
        assert len(found) >= 2
        assert set(found) == {half}


async def test_enter_on_the_panel_does_the_same():
    async with running(decay()) as (app, pilot, _):
        await press(app, pilot, "4", "enter")
        assert "AICc" in shown(app.dashboard.pressure)


async def test_without_a_fit_the_table_says_why():
    async with running(main_run(240, 240)) as (app, pilot, _):
        await press(app, pilot, "t")
        assert "2 measured chunks, and a fit needs at least 5: 3 more" in shown(app.dashboard.pressure)


# After an injection


async def test_the_difference_is_given_against_the_chunk_before_and_against_the_forecast():
    async with running(decay(), size=(200, 60)) as (app, pilot, _):
        await press(app, pilot, "4", "z")
        track = app.view.tracks["measured-v2"]
        injected, after = track.injections.points[-1].chunk, track.injections.after
        earlier = [(at, mid) for at, mid in zip(track.series.positions, track.series.mid, strict=True) if at < injected]
        positions, mid = zip(*earlier, strict=True)
        forecast = fit_half_life(mid, mode="measured-v2", positions=positions).forecast(after.index)
        from_forecast = f"{after.pressures.mid - forecast:+.3f}".replace("-", "−")
        delta = f"{track.delta:+.3f}".replace("-", "−")
        said = f"go on: Δ P_mid {delta} before/after, {from_forecast} from forecast (difference without control)"
        assert said in shown(app.dashboard.pressure)


async def test_a_forecast_from_too_few_chunks_is_none():
    async with running(main_run(), size=(200, 60)) as (app, pilot, _):
        await press(app, pilot, "4", "z")
        assert "forecast n/a: 4 measured chunks, and a fit needs at least 5: 1 more" in shown(app.dashboard.pressure)


# Forks


@pytest.mark.parametrize("size", [(80, 24), (200, 60)], ids=["80x24", "200x60"])
async def test_forks_give_the_external_energy_with_its_interval_and_how_many_there_were(size):
    found = forks()
    energy = external_energy(boundaries_of(found, 1))
    async with running([*main_run(), *found], size=size) as (app, pilot, _):
        await press(app, pilot, "4")
        low, high = energy.text_minus_neutral.interval
        text = shown(app.dashboard.pressure)
        assert f"text − neutral {energy.text_minus_neutral.mean:+.3f} [{low:+.3f}, {high:+.3f}]" in text
        assert f"− none {energy.text_minus_none.mean:+.3f}" in text
        assert ("6 boundaries × 4" in text) or ("(6 × 4)" in text)
        await press(app, pilot, "p")
        assert "external energy n/a: the forks were measured in the other mode" in shown(app.dashboard.pressure)


async def test_forks_without_all_three_arms_tell_nothing_yet():
    some = [fork for fork in forks() if fork.arm != "text"]
    async with running([*main_run(), *some], size=(80, 24)) as (app, pilot, _):
        await press(app, pilot, "4")
        assert "external energy n/a: no boundary has all three arms yet" in shown(app.dashboard.pressure)


async def test_forks_are_kept_without_their_texts():
    async with running([*main_run(50), *forks()]) as (app, _, _):
        assert all((fork.text, fork.injected, fork.generated) == ("", [], []) for fork in app.view.pressure.forks)


# Beside the screen


async def test_a_slow_fit_holds_no_frame_up_and_says_how_old_it_is():
    slow, run = Slow(), MadeUpRun()
    async with running([*run.prompt(), *run.generate(320)], executor=slow, size=(80, 24)) as (app, pilot, source):
        await press(app, pilot, "4")
        panel = app.dashboard.pressure
        assert "computing the first fit" in shown(panel)
        slow.work()
        await settle(app, pilot)
        assert "stable: no trend" in shown(panel)
        assert "old" not in shown(panel)
        source.add(run.generate(40))
        await settle(app, pilot)
        assert "· fit 2 chunks old" in shown(panel)
        slow.work()
        await settle(app, pilot)
        assert "old" not in shown(panel)


class Ticking(ManualClock):
    """Clock that advances by `step` seconds with every reading."""

    step = 0.0

    def __call__(self):
        self.now += self.step
        return self.now


async def test_refits_leave_most_of_the_core_alone():
    slow, clock, run = Slow(), Ticking(), MadeUpRun()
    items = [*run.prompt(), *run.generate(320)]
    async with running(items, executor=slow, clock=clock) as (app, pilot, source):
        clock.step = 1.0
        slow.work()
        clock.step = 0.0
        source.add(run.generate(20))
        await settle(app, pilot)
        assert not slow.waiting
        clock.advance(REST - 0.1)
        await settle(app, pilot)
        assert not slow.waiting
        clock.advance(0.2)
        await settle(app, pilot)
        assert len(slow.waiting) == 1


async def test_nothing_is_fitted_again_while_nothing_is_new():
    slow = Slow()
    async with running(main_run(), executor=slow) as (app, pilot, _):
        slow.work()
        for _ in range(3):
            await settle(app, pilot)
        assert not slow.waiting
        await press(app, pilot, "p")
        assert len(slow.waiting) == 1


async def test_a_fit_of_an_earlier_run_is_not_shown_for_this_one():
    slow = Slow()
    async with running(decay(), executor=slow) as (app, pilot, source):
        source.add(main_run(300))
        await settle(app, pilot)
        slow.work()
        await settle(app, pilot)
        assert "exponential" not in shown(app.dashboard.pressure)


async def test_a_fit_that_fails_is_said_to_have_failed():
    class Broken(Slow):
        def work(self):
            for done, _, _ in self.waiting:
                done.set_exception(ZeroDivisionError("no spread"))
            self.waiting = []

    broken = Broken()
    async with running(main_run(), executor=broken, size=(200, 60)) as (app, pilot, _):
        broken.work()
        await settle(app, pilot)
        assert "no verdict: the fit itself failed: ZeroDivisionError: no spread" in shown(app.dashboard.pressure)


# Limits of a mode


@pytest.mark.parametrize(
    ("mode", "experts", "said"),
    [
        ("measured-v2", 512, "never: fast is at least −0.402, needs −0.7"),
        ("chronomoe-v1", 8, "never: fast is at least −0.672, needs −0.7"),
        ("chronomoe-v1", 64, "possible: fast can be −1.000, needs −0.7"),
    ],
)
def test_fast_instability_is_said_to_be_unreachable_or_not(mode, experts, said):
    assert dict(pause_reasons(mode, experts))["unstable"] == said
