"""Experts switched off: the keys, the marks in every panel, and the numbers of pruned models."""

from __future__ import annotations

import msgspec
import pytest
from msgspec import UNSET

from moe_watch.routing.events import Change, Refused, Token
from moe_watch.routing.router.masks import ExpertMask
from moe_watch.sessions.source import Timeline
from moe_watch.tui.state.mask_words import mask_change_text
from tests.tui.conftest import lines, press, running, settle, shown, style_at, toasts
from tests.tui.events import MASK, MadeUpRun, header, large_head, main_run, masked_run
from tests.tui.scripted import REPLAYING, SEEKABLE

# The key


async def test_x_switches_the_expert_under_the_cursor_off_and_on_again():
    run = MadeUpRun()
    async with running([*run.prompt(), *run.generate(40)]) as (app, pilot, source):
        await press(app, pilot, "2", "down")
        await press(app, pilot, "x")
        at = app.dashboard.experts.cursor
        assert source.asked[-1] == ("mask", ExpertMask.of([at.cell]))
        assert toasts(app) == [f"layer {at.layer} expert {at.expert} off, from the next token on"]
        source.add(run.followed(Change(i=run.i, t=run.t, mask=[(at.layer, [at.expert])])))
        await settle(app, pilot)
        assert "1 expert off" in shown(app.dashboard.experts)
        await press(app, pilot, "x")
        assert source.asked[-1] == ("mask", ExpertMask())


async def test_x_twice_before_the_first_one_takes_effect_undoes_it():
    async with running(main_run(40)) as (app, pilot, source):
        await press(app, pilot, "2", "down", "x", "x")
        assert [len(mask) for name, mask in (each for each in source.asked if each[0] == "mask")] == [1, 0]


async def test_a_refused_mask_is_forgotten_and_said():
    run = MadeUpRun()
    async with running([*run.prompt(), *run.generate(40)]) as (app, pilot, source):
        await press(app, pilot, "2", "down", "x")
        assert len(app.control.mask) == 1
        source.add([Refused(i=run.i, t=run.t, command="mask", why="this family cannot be masked")])
        await settle(app, pilot)
        assert app.control.mask == ExpertMask()
        assert "this family cannot be masked" in toasts(app)


async def test_the_head_of_a_column_switches_the_expert_in_every_layer():
    async with running(main_run(40)) as (app, pilot, source):
        await press(app, pilot, "2", "down", *["up"] * 9)
        cursor = app.dashboard.experts.cursor
        assert cursor.layer is None
        assert lines(app.dashboard.experts)[-1].startswith(f"▸ expert {cursor.expert} of every layer")
        await press(app, pilot, "x")
        assert source.asked[-1] == ("mask", ExpertMask.of([(layer, cursor.expert) for layer in range(6)]))
        assert toasts(app) == [f"expert {cursor.expert} off in 6 layers, from the next token on"]


async def test_the_head_of_a_row_is_refused_plainly_and_switches_a_layer_on_again():
    _, items = masked_run()
    async with running(items) as (app, pilot, source):
        await press(app, pilot, "2", "down")
        app.dashboard.experts.go_to(1)
        await press(app, pilot, "x")
        assert toasts(app) == [
            "expert off/on: layer 1 would keep 0 of 8 experts, and selects 2 per token: switch off 6 of them at most"
        ]
        assert all(each[0] != "mask" for each in source.asked)
        app.dashboard.experts.go_to(2)
        assert "2 of 8 off" in lines(app.dashboard.experts)[-1]
        await press(app, pilot, "x")
        assert source.asked[-1] == ("mask", ExpertMask.of([(0, 3)]))


async def test_the_last_k_experts_of_a_layer_stay():
    _, items = masked_run([(0, [0, 1, 2, 3, 4, 5])])
    async with running(items) as (app, pilot, source):
        await press(app, pilot, "2", "down")
        app.dashboard.experts._point_at(0, 6)
        await press(app, pilot, "x")
        assert "layer 0 would keep 1 of 8 experts" in toasts(app)[0]
        assert all(each[0] != "mask" for each in source.asked)


async def test_capital_x_switches_all_on():
    _, items = masked_run()
    async with running(items) as (app, pilot, source):
        await press(app, pilot, "X")
        assert source.asked[-1] == ("mask", ExpertMask())


@pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=["80x24", "120x40"])
async def test_x_without_a_cursor_shows_one(size):
    async with running(main_run(40), size=size) as (app, pilot, source):
        await press(app, pilot, "x")
        assert toasts(app) == ["choose an expert with the arrows, then x"]
        await pilot.pause()
        assert app.focused is app.dashboard.experts
        assert all(each[0] != "mask" for each in source.asked)


# Marks


async def test_tiles_of_experts_that_are_off_are_hatched():
    _, items = masked_run()
    async with running(items) as (app, _, _):
        heatmap = app.dashboard.experts
        content, rows = heatmap.content, lines(heatmap)
        assert "╱×" in rows[1]
        for layer, first in ((0, 1), (1, 3), (2, 5)):
            width = content.layout.cell_width
            cells = [rows[first][content.gutter + e * width : content.gutter + (e + 1) * width] for e in range(8)]
            assert [e for e, cell in enumerate(cells) if "×" in cell] == dict(MASK).get(layer, [])
            assert (rows[first][content.gutter - 1] == "×") == (layer in dict(MASK))
        assert "× off" in shown(heatmap)
        assert "× 3 experts off" in shown(heatmap)


async def test_an_expert_that_is_off_differs_from_one_that_is_dead_or_was_not_computed():
    run = MadeUpRun()
    items = [
        msgspec.structs.replace(item, experts=[0, 1] * 5 + [None] * 2) if isinstance(item, Token) else item
        for item in [*run.prompt(), *run.generate(10)]
    ]
    items.append(Change(i=run.i, t=run.t, mask=[(0, [7])]))
    async with running(items) as (app, _, _):
        heatmap = app.dashboard.experts
        content, rows = heatmap.content, lines(heatmap)
        at = [content.gutter + e * content.layout.cell_width for e in (6, 7)]
        assert "0" in rows[1][at[0] : at[1]]
        assert "×" in rows[1][at[1] : at[1] + content.layout.cell_width]
        assert "·" in rows[11][at[1] : at[1] + content.layout.cell_width]


async def test_half_blocks_have_dots_in_their_half():
    _, items = masked_run([(0, [7]), (5, [9]), (10, [20]), (11, [20])], head=large_head(48, 128, 8))
    async with running(items, size=(200, 60)) as (app, _, _):
        heatmap = app.dashboard.experts
        content, rows = heatmap.content, lines(heatmap)
        assert not content.layout.binning
        assert not content.layout.rows_per_band
        assert rows[1][content.gutter + 7] == "⠛"
        assert rows[3][content.gutter + 9] == "⣤"
        assert rows[6][content.gutter + 20] == "⣿"
        assert sum(row.count(dots) for row in rows[1:-2] for dots in "⠛⣤⣿") == 3
        lower = style_at(heatmap, content.gutter + 7, 1).bgcolor
        level = -1 if content.lit[1, 7] else int(content.cells[1, 7])
        assert lower == (heatmap.palette.accent.color if level < 0 else heatmap.palette.heatmap.ramp[level])


async def test_a_cell_of_several_experts_is_marked_if_one_of_them_is_off():
    _, items = masked_run([(0, [7])], head=large_head(94, 512, 8))
    async with running(items) as (app, _, _):
        content, rows = app.dashboard.experts.content, lines(app.dashboard.experts)
        assert content.layout.binning
        assert rows[1][content.gutter + 7 // content.layout.expert_bin] == "⠛"
        assert "some off" in shown(app.dashboard.experts)


async def test_without_colours_experts_that_are_off_have_a_sign():
    _, items = masked_run([(0, [7])], head=large_head(48, 128, 8))
    async with running(items, size=(200, 60), theme="ansi-dark") as (app, _, _):
        content, rows = app.dashboard.experts.content, lines(app.dashboard.experts)
        assert rows[1][content.gutter + 7] == "×"


async def test_stream_and_charts_mark_the_change():
    run, items = masked_run(before=70, after=40)
    async with running(items) as (app, pilot, source):
        board = app.dashboard
        assert "× 3 experts off" in shown(board.stream)
        since = next(item.i for item in items if isinstance(item, Change))
        assert f"of the masked router since token {since} " in shown(board.entropy)
        assert any(line.rstrip().find("×") > 0 for line in lines(board.entropy))
        change = app.view.tracks["measured-v2"].mask_changes.points[-1]
        assert f"×{change.chunk}" in lines(board.pressure)[-2]
        cut = app.view.tracks["measured-v2"].chunks[change.chunk - 1]
        assert cut.partial
        assert cut.last < since
        source.add([*run.followed(Change(i=run.i, t=run.t, mask=[])), *run.generate(2)])
        await settle(app, pilot)
        assert "× all experts on" in shown(board.stream)
        assert "masked router" not in shown(board.entropy)
        assert "experts off" not in shown(board.experts)


async def test_the_line_in_the_entropy_chart_leaves_with_its_token():
    run, items = masked_run(before=70, after=10)
    async with running(items) as (app, pilot, source):
        assert app.view.window.marks == [70]
        source.add(run.generate(186))
        await settle(app, pilot)
        assert app.view.window.marks == [60]
        source.add(run.generate(60))
        await settle(app, pilot)
        assert app.view.window.marks == []


async def test_a_seek_finds_the_mask_in_the_keyframe():
    run = MadeUpRun()
    before = [*run.prompt(), *run.generate(320), *run.followed(Change(i=run.i, t=run.t, mask=MASK)), *run.generate(400)]
    frame = run._instruments.keyframe()
    assert frame.mask == MASK
    changes = [item for item in before if isinstance(item, Change)]
    for earlier in ([], changes):
        items = [run.header, *earlier, frame, *MadeUpRun().generate(0)]
        async with running(items, abilities=SEEKABLE, origin=REPLAYING) as (app, _, _):
            assert app.view.mask == ExpertMask.from_rows(MASK)
            assert app.view.settings.masked.since == (changes[0].i if earlier else None)


async def test_the_timeline_marks_changes_of_the_mask_and_keys_stop_there():
    _, items = masked_run()
    change = next(item for item in items if isinstance(item, Change))
    there = Timeline(
        first=0, tokens=700, seconds=83.0, position=20, time=0.2, chunks=33, marks=[], perturbations=[],
        masks=[msgspec.structs.replace(change, i=350)],
    )  # fmt: skip
    async with running(items, abilities=SEEKABLE, origin=REPLAYING, timeline=there) as (app, pilot, source):
        bar = lines(app.dashboard.timeline)[0]
        assert abs(bar.index("×") - (bar.index("●") + bar.rindex("─")) / 2) < 4
        await press(app, pilot, "right_square_bracket")
        assert source.asked[-1][1].to == 350


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        ([], [(3, 5)], "layer 3 expert 5 off"),
        ([(3, 5)], [(3, 5), (3, 1), (3, 2)], "layer 3 experts 1, 2 off"),
        ([(3, 5)], [], "all experts on"),
        ([(3, 5), (4, 5)], [(4, 5)], "layer 3 expert 5 on"),
        ([(0, 0)], [(0, 0), (1, 2), (3, 2), (4, 2)], "expert 2 off in 3 layers"),
        ([], [(1, expert) for expert in range(6)], "6 experts off in layer 1"),
        ([(0, 0)], [(1, 1)], "layer 1 expert 1 off, layer 0 expert 0 on"),
        ([(0, 0)], [(0, 0)], "1 expert off"),
    ],
)
def test_a_change_of_the_mask_in_words(before, after, text):
    assert mask_change_text(ExpertMask.of(before), ExpertMask.of(after)) == text


# Another k, and pruned models


@pytest.mark.parametrize(("own", "shape"), [(2, "6 layers × 8 experts, k=4, own 2"), (UNSET, "8 experts, top-4")])
async def test_another_k_is_in_the_header_with_the_models_own(own, shape):
    head = header(k=4)
    head = header(k=4, model=msgspec.structs.replace(head.model, own_experts_per_token=own))
    async with running(main_run(20, head=head), size=(200, 60)) as (app, _, _):
        assert shape in shown(app.dashboard.query_one("#header"))


async def test_another_k_is_marked_in_the_stream():
    run = MadeUpRun(header(k=4))
    items = [*run.prompt(), *run.followed(Change(i=run.i, t=run.t, experts_per_token=4)), *run.generate(5)]
    async with running(items) as (app, _, _):
        assert "◇ 4 experts per token" in shown(app.dashboard.stream)


async def test_original_numbers_of_a_pruned_model():
    ids = [[layer, 10 + layer, 20 + layer, 30, 40, 50, 60, 70 + layer] for layer in range(6)]
    head = header()
    head = header(model=msgspec.structs.replace(head.model, expert_ids=ids))
    async with running(main_run(60, head=head)) as (app, pilot, _):
        heatmap = app.dashboard.experts
        top = [int(row.split()[-3]) for row in lines(heatmap)[1:12:2]]
        await press(app, pilot, "number_sign")
        assert "numbers of the whole model" in shown(heatmap)
        assert [int(row.split()[-3]) for row in lines(heatmap)[1:12:2]] == [
            ids[at][each] for at, each in enumerate(top)
        ]
        await press(app, pilot, "2", "down")
        layer, expert = heatmap.cursor
        assert f"layer {layer} · expert {expert} ({ids[layer][expert]} in the whole model)" in lines(heatmap)[-1]
        await press(app, pilot, "number_sign")
        assert "numbers of the whole model" not in shown(heatmap)


async def test_a_whole_model_has_no_other_numbers():
    async with running(main_run(20)) as (app, pilot, _):
        await press(app, pilot, "number_sign")
        assert toasts(app) == ["original numbers: this model is not pruned"]
