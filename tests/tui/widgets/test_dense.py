"""The dashboard on a dense model: panels that need routing say so, everything else works."""

from __future__ import annotations

import pytest
from textual.geometry import Size

from moe_watch.routing.events import Chunk, Keyframe, Token
from moe_watch.tui.drawing.colours import SURPRISAL_LIMITS
from moe_watch.tui.input.actions import ACTIONS, BY_ID
from moe_watch.tui.screens.help import HelpScreen
from tests.dense_runs import as_dense
from tests.tui.conftest import lines, press, running, shown, toasts
from tests.tui.events import main_run
from tests.tui.scripted import REPLAYING, SEEKABLE

SIZES = pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)], ids=["80x24", "120x40", "200x60"])
NEEDS_ROUTERS = {
    *("tap", "pressure_mode", "pressure_lines", "pressure_fits", "token_colour"),
    *("mask", "unmask", "quantity", "original", "experts"),
}


@pytest.fixture
def run():
    return as_dense(main_run(260))


def words(panel) -> str:
    """The text of a panel on one line."""
    return " ".join(shown(panel).split())


@SIZES
@pytest.mark.parametrize(
    ("tab", "text"),
    [
        ("2", "no MoE layers: this model is dense, every token passes through all of its weights"),
        ("3", "no MoE layers, so no router entropy and no churn. The stream shows the surprisal of each token."),
        ("4", "no MoE layers, so no pressure and no half-life: both are computed from routing. Text, surprisal"),
    ],
    ids=["experts", "entropy", "pressure"],
)
async def test_panels_of_routing_say_what_is_absent_and_what_is_there(run, size, tab, text):
    async with running(run, size=size) as (app, pilot, _):
        await press(app, pilot, tab)
        panel = app.dashboard.panels[int(tab) - 1]
        assert panel.is_on_screen
        assert text in words(panel)
        assert "n/a" not in shown(panel)
        assert panel.content_size > Size(0, 0)


@SIZES
async def test_stream_and_vitals_have_what_an_moe_model_has(run, size):
    async with running(run, size=size) as (app, pilot, _):
        header = lines(app.dashboard.query_one("#header"))[0]
        assert " · dense" in header
        assert "no tap" in header
        stream = app.dashboard.stream
        assert stream.colouring == "surprisal"
        assert "surprisal" in shown(stream).splitlines()[-1], "the readout of the newest token"
        await press(app, pilot, "5")
        assert "memory" in shown(app.dashboard.vitals)


async def test_tokens_are_coloured_by_surprisal(run):
    async with running(run) as (app, _, _):
        surprisals = [piece.surprisal for piece in app.view.pieces if piece.surprisal is not None]
        assert min(surprisals) < SURPRISAL_LIMITS[0] < SURPRISAL_LIMITS[-2] < max(surprisals)
        assert all(piece.entropy is None for piece in app.view.pieces)
        assert "coloured by surprisal" in str(app.dashboard.stream.border_title)


async def test_another_run_before_it_may_have_been_coloured_by_entropy(run):
    async with running(main_run(40)) as (app, pilot, source):
        await press(app, pilot, "v")
        assert app.dashboard.stream.colouring == "router entropy"
        source.add(run)
        app.tick()
        await pilot.pause()
        assert app.dashboard.stream.colouring == "surprisal"


async def test_the_counts_are_those_of_the_run(run):
    async with running(run) as (app, _, _):
        tokens = [item for item in run if isinstance(item, Token)]
        assert app.view.tokens == len(tokens)
        assert app.view.decoded == sum(token.phase == "decode" for token in tokens)
        assert app.view.chunks == sum(isinstance(item, Chunk) for item in run) > 10
        assert app.view.observed == 0


def test_the_actions_on_routing_are_marked() -> None:
    assert {action.id for action in ACTIONS if action.of_routers} == NEEDS_ROUTERS


@pytest.mark.parametrize("name", sorted(NEEDS_ROUTERS))
async def test_actions_on_routing_are_refused_with_the_reason(run, name):
    action = BY_ID[name]
    async with running(run) as (app, pilot, source):
        before = list(source.asked)
        await press(app, pilot, action.keys[0])
        assert f"{action.title}: this model is dense, it has no router" in " ".join(toasts(app))
        assert source.asked == before
        assert not app.dashboard.pressure.all_fits


async def test_other_actions_reach_the_run(run):
    async with running(run) as (app, pilot, source):
        await press(app, pilot, "g")
        await press(app, pilot, "m")
        assert [each[0] for each in source.asked[-2:]] == ["perturb", "set_multistep"]


async def test_the_help_has_no_pause_reasons(run):
    async with running(run) as (app, pilot, _):
        await press(app, pilot, "question_mark")
        assert isinstance(app.screen, HelpScreen)
        assert len(app.screen.query("#help-box Static")) == 2, "keys and marks"


@pytest.mark.parametrize("begins_at", [0, 700])
async def test_a_recording_that_begins_at_a_keyframe(begins_at):
    made = as_dense(main_run(1500))
    frame = next(at for at, item in enumerate(made) if isinstance(item, Keyframe) and item.i >= begins_at)
    items = made if not begins_at else [made[0], *made[frame:]]
    async with running(items, abilities=SEEKABLE, origin=REPLAYING) as (app, _, _):
        assert app.view.tokens == max(item.i for item in made if isinstance(item, Token)) + 1
        assert app.view.chunks == sum(isinstance(item, Chunk) for item in items)
        assert "no MoE layers" in words(app.dashboard.pressure)
