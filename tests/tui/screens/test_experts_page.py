"""Page of the experts that matter, and the heatmap's other quantities."""

from __future__ import annotations

import numpy as np
import pytest

from moe_watch.routing.events import Change, Chunk
from moe_watch.routing.router.masks import ExpertMask
from moe_watch.sessions.experts.importance import ImportanceFile
from moe_watch.sessions.imports.importer import import_trace
from moe_watch.sessions.imports.traces import ImportOptions
from moe_watch.tui.app import MoeWatchApp
from moe_watch.tui.screens.experts import ExpertsScreen
from moe_watch.tui.state.expert_ranking import ExpertFacts, KeepPlan
from tests.sessions.kit import replayed
from tests.tui.conftest import AtOnce, lines, press, running, settle, shown, toasts
from tests.tui.events import MadeUpRun, main_run
from tests.tui.screens.importance_files import DAMAGE, SALIENCY, ablation, profile
from tests.tui.scripted import REPLAYING, SEEKABLE, ManualClock, scripted


async def opened(app, pilot):
    await press(app, pilot, "E")
    await pilot.pause()
    assert isinstance(app.screen, ExpertsScreen)
    return app.screen


def words(screen, name="experts-words"):
    return str(screen.query_one(f"#{name}").content)


def rows(screen):
    listed = screen.query_one("#experts-list")
    return [str(listed.get_option_at_index(at).prompt) for at in range(listed.option_count)]


async def test_the_plan_by_count_has_the_numbers_of_the_run():
    async with running(main_run(300)) as (app, pilot, _):
        page = await opened(app, pilot)
        counts = app.view.usage.usage.counts
        gone = np.sort(counts, axis=1)[:, :2].sum()
        assert "If each layer keeps 6 of 8 experts by count, 12 go (2 per layer)" in words(page)
        assert f"{100 * gone / counts.sum():.1f} % of the selections" in words(page)
        assert f"of {app.view.usage.tokens} tokens" in words(page)
        order = np.argsort(-counts[0], kind="stable")
        row = rows(page)[0].split()
        assert row[:10] == ["0", *map(str, order[:6]), "│", *map(str, order[6:])]
        share = 100 * np.sort(counts[0])[:2].sum() / counts[0].sum()
        assert row[10] == f"{share:.1f}"


async def test_keys_change_the_number_and_the_ranking():
    async with running(main_run(300)) as (app, pilot, _):
        page = await opened(app, pilot)
        await press(app, pilot, "left")
        assert "keeps 5 of 8 experts by count" in words(page)
        await press(app, pilot, *["left"] * 9)
        assert "keeps 2 of 8 experts by count" in words(page)
        await press(app, pilot, *["right"] * 9)
        assert "All 8 experts of each layer stay: nothing is lost." in words(page)
        await press(app, pilot, "minus", "r")
        assert "keeps 7 of 8 experts by weight mass" in words(page)
        mass = app.view.usage.mass
        assert page.plan.dropped[:, 0].tolist() == mass.argmin(1).tolist()
        await press(app, pilot, "r")
        assert "by count" in words(page)


async def test_every_expert_of_a_layer_can_be_read_in_a_small_terminal():
    async with running(main_run(300), size=(80, 24)) as (app, pilot, _):
        page = await opened(app, pilot)
        layer = page.query_one("#experts-layer")
        assert layer.border_subtitle == "tab and ↑ ↓ scroll"
        assert layer.max_scroll_y > 0
        await press(app, pilot, "tab", *["down"] * 9)
        assert layer.scroll_y == layer.max_scroll_y
        assert page.query_one("#experts-list").highlighted == 0
        await press(app, pilot, "left")
        assert page.plan.keep == 5
        await press(app, pilot, "escape")
        assert app.screen is app.dashboard


async def test_without_overflow_no_scroll_keys_are_named():
    async with running(main_run(300), size=(120, 40)) as (app, pilot, _):
        page = await opened(app, pilot)
        assert not page.query_one("#experts-layer").border_subtitle
        await press(app, pilot, "tab", "down")
        assert page.query_one("#experts-list").highlighted == 1


async def test_clicks_change_them_too():
    async with running(main_run(300), size=(120, 40)) as (app, pilot, _):
        page = await opened(app, pilot)
        choice = page.query_one("#experts-choice")
        text = str(choice.content)
        await pilot.click(choice, offset=(text.index("weight mass") + 2, 0))
        assert page.ranking == "weight mass"
        await pilot.click(choice, offset=(text.index("‹"), 0))
        assert page.plan.keep == 5


async def test_enter_goes_to_the_layer_in_the_heatmap():
    async with running(main_run(60), size=(80, 24)) as (app, pilot, _):
        page = await opened(app, pilot)
        await press(app, pilot, "down", "down")
        assert page.query_one("#experts-layer").border_title == "Layer 2"
        await press(app, pilot, "enter")
        await pilot.pause()
        assert app.screen is app.dashboard
        assert app.dashboard.experts.cursor == (2, None)
        assert app.focused is app.dashboard.experts


async def test_the_page_follows_the_run():
    run, clock = MadeUpRun(), ManualClock()
    async with running([*run.prompt(), *run.generate(20)], clock=clock) as (app, pilot, source):
        page = await opened(app, pilot)
        before = run.i
        assert f"of {before} tokens" in words(page)
        source.add(run.generate(7))
        await settle(app, pilot)
        assert f"of {before} tokens" in words(page)
        clock.advance(1.0)
        await settle(app, pilot)
        assert f"of {before + 7} tokens" in words(page)
        await press(app, pilot, "escape")
        assert app.screen is app.dashboard


async def test_never_selected_is_apart_from_rarely_selected_and_from_off():
    run = MadeUpRun()
    items = [*run.prompt(), *run.generate(400)]
    items += [*run.followed(Change(i=run.i, t=run.t, mask=[(2, [3])])), *run.generate(3)]
    async with running(items) as (app, pilot, _):
        facts = ExpertFacts.of(app.frame_now)
        counts = app.view.usage.usage.counts
        rare = (counts > 0) & (counts < counts.sum(1, keepdims=True) / 80)
        never = counts == 0
        never[2, 3] = rare[2, 3] = False
        assert (facts.never == never).all()
        assert (facts.rarely == rare).all()
        page = await opened(app, pilot)
        assert "1 expert off: its tokens go to other experts" in words(page)
        assert rows(page)[2].split()[-1] == "1"
        assert "×3" in rows(page)[2]


async def test_after_a_seek_the_page_says_since_when_weights_are_counted():
    run = MadeUpRun()
    before = [*run.prompt(), *run.generate(650)]
    frame = run._instruments.keyframe()
    items = [run.header, *[item for item in before if isinstance(item, Chunk)], frame, *run.generate(90)]
    async with running(items, abilities=SEEKABLE, origin=REPLAYING) as (app, pilot, _):
        page = await opened(app, pilot)
        assert f"The weight mass is of the tokens from {frame.i} on" in words(page)
        assert f"of {run.i} tokens" in words(page)


async def test_imported_counts_have_counts_alone(tmp_path):
    counts = np.random.default_rng(5).multinomial(600, [0.2, 0.2, 0.15, 0.15, 0.1, 0.1, 0.1, 0.0], 6)
    np.savez(tmp_path / "dump.npz", logical_count=counts)
    imported = import_trace(tmp_path / "dump.npz", ImportOptions(experts_per_token=2, model="mixtral"), folder=tmp_path)
    async with running(replayed(imported.path), abilities=(), ended=True, origin=REPLAYING) as (app, pilot, _):
        page = await opened(app, pilot)
        assert page.plan.facts.rankings == ["count"]
        assert "6 experts never selected" in words(page)
        assert "n/a" in rows(page)[0]


async def test_before_the_first_token_there_is_nothing_to_rank():
    run, clock = MadeUpRun(), ManualClock()
    async with running([run.header], clock=clock) as (app, pilot, source):
        page = await opened(app, pilot)
        assert words(page) == "no token yet"
        await press(app, pilot, "left", "r")
        clock.advance(1.0)
        source.add([*run.prompt()][1:])
        await settle(app, pilot)
        assert "keeps 6 of 8" in words(page)


# Files of `profile` and `ablate`


def with_files(items, *files):
    clock = ManualClock()
    return MoeWatchApp(scripted(items), clock=clock, fps=None, executor=AtOnce(), importance=files)


async def test_h_shows_saliency_and_damage_from_files():
    app = with_files(main_run(60), profile(SALIENCY), ablation(DAMAGE))
    async with app.run_test(size=(120, 40)) as pilot:
        await settle(app, pilot)
        heatmap = app.dashboard.experts
        titles = []
        for _ in range(4):
            await press(app, pilot, "h")
            titles.append(shown(heatmap).splitlines()[0])
        assert [title.split(",")[0] for title in titles] == [
            "EXPERTS  weight mass",
            "EXPERTS  saliency",
            "EXPERTS  damage by ablation",
            "EXPERTS  usage",
        ]
        await press(app, pilot, "h", "h", "2", "down")
        assert heatmap.cursor.expert == 7
        app.dashboard.experts._point_at(3, 5)
        assert "saliency 8 · 80 % of the highest" in lines(heatmap)[-1]
        assert [int(cell.strip("[]")) for cell in lines(heatmap)[1].split()[1:9]] == [
            round(100 * e / 7) for e in range(8)
        ]
        await press(app, pilot, "h")
        assert "+0.0100 nats per token without it" in lines(heatmap)[-1]
        heatmap._point_at(3, 7)
        assert "−0.0100 nats per token without it" in lines(heatmap)[-1]


async def test_a_saliency_that_is_absent_is_not_zero():
    app = with_files(main_run(60), profile({**SALIENCY, 2: [None] * 7 + [1.0]}))
    async with app.run_test(size=(120, 40)) as pilot:
        await settle(app, pilot)
        await press(app, pilot, "h", "h", "2", "down")
        heatmap = app.dashboard.experts
        heatmap._point_at(2, 0)
        assert "never routed, no saliency" in lines(heatmap)[-1]
        assert lines(heatmap)[5].count("·") == 7


async def test_the_page_ranks_by_them_and_names_the_worst():
    app = with_files(main_run(60), profile(SALIENCY), ablation(DAMAGE))
    async with app.run_test(size=(120, 40)) as pilot:
        await settle(app, pilot)
        page = await opened(app, pilot)
        assert page.plan.facts.rankings == ["count", "weight mass", "saliency", "damage"]
        await press(app, pilot, "r", "r")
        assert page.plan.kept.tolist() == [[2, 3, 4, 5, 6, 7]] * 6
        assert "the worst costs +0.0600 nats per token if it alone is off (ablation.json)." in words(page)
        await press(app, pilot, "r")
        assert page.plan.kept.tolist() == [[0, 1, 2, 3, 4, 5]] * 6
        assert "costs 0.0000" in words(page) or "costs +0.0000" in words(page) or "costs −0.0000" in words(page)


async def test_a_damage_of_some_experts_is_no_ranking():
    app = with_files(main_run(60), ablation({(0, 3): 0.5}))
    async with app.run_test(size=(120, 40)) as pilot:
        await settle(app, pilot)
        page = await opened(app, pilot)
        assert page.plan.facts.rankings == ["count", "weight mass"]
        assert "n/a" in words(page, "experts-detail")
        assert "+0.5000" in words(page, "experts-detail")


async def test_files_of_another_model_are_refused_in_one_line():
    app = with_files(main_run(20), ("profile.json", ImportanceFile(activation_counts={0: [1, 2]})))
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await settle(app, pilot)
        assert toasts(app) == [
            "profile.json is of another model (1 layer × 2 experts): pocket has 6 layers × 8 experts; give a file of it"
        ]


async def test_without_weights_and_files_h_says_what_would_add_more():
    run = MadeUpRun()
    items = [run.header]
    async with running(items) as (app, pilot, _):
        await press(app, pilot, "h")
        assert toasts(app) == ["heatmap values: only usage is known here, --importance FILE adds saliency and ablation"]


@pytest.mark.parametrize(("keep", "share"), [(2, 3 / 19), (4, 0.0)])
def test_shares_lost(keep, share):
    counts = np.array([[9, 1, 0, 5], [1, 1, 1, 1]])
    facts = ExpertFacts(header=MadeUpRun().header, counts=counts, tokens=8, mass=None, mass_from=0, mask=ExpertMask())
    plan = KeepPlan(facts, "count", keep)
    assert plan.order.tolist() == [[0, 3, 1, 2], [0, 1, 2, 3]]
    assert plan.overall[0] == pytest.approx(share)
    assert np.isnan(plan.overall[1])
