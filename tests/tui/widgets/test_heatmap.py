"""Rendering of the heatmap: cells, numbers, cursor, and repainted rows."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from rich.style import Style
from textual.app import App

from moe_watch.routing.events import Chunk, ModelInfo, Token
from moe_watch.tui.drawing.colours import DARK, HEATMAP_LEVELS, LIGHT
from moe_watch.tui.widgets.panels.experts.heatmap import ExpertHeatmap
from tests.tui.conftest import lines, press, running, settle, shown, style_at
from tests.tui.events import MadeUpRun, header, main_run


def large(layers, experts, k, tokens=30):
    model = ModelInfo(
        name="large", architecture="qwen3moe", layers=list(range(1, layers + 1)), experts=experts,
        experts_per_token=k, gate="softmax_top_k_renormalised",
    )  # fmt: skip
    return main_run(tokens, head=header(layers, experts, k, model=model))


def last_token(items):
    return next(item for item in reversed(items) if isinstance(item, Token))


async def test_tiles_carry_their_share_in_percent():
    items = main_run()
    async with running(items) as (app, _, _):
        heatmap = app.dashboard.experts
        counts = app.view.window.usage.counts
        percents = [round(100 * count / counts[0].sum()) for count in counts[0]]
        cells = lines(heatmap)[1].split()
        assert cells[0] == "0"
        assert [int(cell) for cell in cells[1:9]] == percents
        assert cells[9:] == [str(counts[0].argmax()), str(max(percents)), "%"]


async def test_title_says_what_the_window_holds():
    async with running(main_run(57)) as (app, _, _):
        assert shown(app.dashboard.experts).startswith("EXPERTS  usage, last 57 tokens\n")
    async with running(MadeUpRun().prompt()) as (app, _, _):
        assert "tokens of the prompt" in shown(app.dashboard.experts)


async def test_the_newest_tokens_experts_are_underlined_in_the_accents_colour():
    items = main_run(50)
    async with running(items) as (app, _, _):
        heatmap = app.dashboard.experts
        accent = heatmap.palette.accent.color
        selected = np.reshape(last_token(items).experts, (6, 2))
        content = heatmap.content
        assert content.layout.rows_per_band == 2
        for layer in range(6):
            lit = {
                expert
                for expert in range(8)
                if style_at(heatmap, content.gutter + expert * content.layout.cell_width, 2 + 2 * layer).bgcolor
                == accent
            }
            assert lit == set(selected[layer].tolist())


async def test_brighter_means_more():
    async with running() as (app, _, _):
        heatmap = app.dashboard.experts
        content = heatmap.content
        shares = app.view.window.usage.shares()[0]
        levels = [style_at(heatmap, content.gutter + e * content.layout.cell_width, 1).bgcolor for e in range(8)]
        brightness = [sum(colour.triplet) for colour in levels]
        assert np.argsort(brightness, kind="stable")[-1] == shares.argmax()
        assert np.argsort(brightness, kind="stable")[0] == shares.argmin()


@pytest.mark.parametrize("theme", [DARK.name, LIGHT.name])
@pytest.mark.parametrize("ramp", ["quantity", "tokens"])
async def test_the_ramps_luminance_only_rises_or_only_falls(theme, ramp):
    """The ramp stays readable where colours become greys."""
    async with running(main_run(5), theme=theme) as (app, _, _):
        ink = app.dashboard.experts.palette
        colours = ink.heatmap.ramp if ramp == "quantity" else [style.color for style in ink.tokens]
        luminance = [0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in (colour.triplet for colour in colours)]
        steps = np.diff(luminance)
        assert len(ink.heatmap.ramp) == HEATMAP_LEVELS
        assert (steps > 0).all() or (steps < 0).all()


async def test_two_layers_share_a_row_where_height_is_short():
    async with running(large(32, 8, 2)) as (app, _, _):
        heatmap = app.dashboard.experts
        rows = lines(heatmap)
        assert heatmap.content.layout.rows_per_band == 0
        assert rows[1].startswith(" 1 ▀▀▀")
        assert rows[2].startswith(" 3 ▀▀▀")
        assert rows[1].count("%") == 2


async def test_half_blocks_show_the_upper_layer_above():
    async with running(large(32, 8, 2)) as (app, _, _):
        heatmap = app.dashboard.experts
        content = heatmap.content
        style = style_at(heatmap, content.gutter, 1)
        heat = heatmap.palette.heatmap.ramp
        assert (style.color, style.bgcolor) == tuple(heat[content.cells[layer, 0]] for layer in (0, 1))


async def test_binning_is_named_in_the_title_and_the_newest_token_is_its_top_expert_only():
    async with running(large(94, 512, 10)) as (app, _, _):
        text = shown(app.dashboard.experts)
        assert "last 30 tokens · max of 3 layers × 10 experts" in text
        assert app.dashboard.experts.content.lit.sum() <= 94


async def test_without_an_order_no_expert_of_the_newest_token_is_its_top_one():
    header, *items = large(94, 512, 10)
    async with running([msgspec.structs.replace(header, capture=["experts"]), *items]) as (app, _, _):
        assert "max of 3 layers × 10 experts" in shown(app.dashboard.experts)
        assert not app.dashboard.experts.content.lit.any()
        assert "top expert" not in shown(app.dashboard.experts)


async def test_layers_that_select_different_numbers_of_experts_light_up_as_many():
    k = [2, 1, 2]
    header, *items = large(3, 8, 2)
    model = msgspec.structs.replace(header.model, experts_per_token=k)
    kept = [2 * layer + rank for layer, chosen in enumerate(k) for rank in range(chosen)]
    fewer = [
        msgspec.structs.replace(
            item, experts=[item.experts[at] for at in kept], weights=item.weights and [item.weights[at] for at in kept]
        )
        if isinstance(item, Token)
        else item
        for item in items
        if not isinstance(item, Chunk)
    ]
    async with running([msgspec.structs.replace(header, schema=2, model=model), *fewer]) as (app, _, _):
        assert app.dashboard.experts.content.lit.sum(1).tolist() == k
        window = app.view.window
        assert window.usage.counts.sum(1).tolist() == [window.tokens * chosen for chosen in k]
        assert "top-1 to 2 by layer" in shown(app.dashboard.query_one("#header"))


async def test_readout_names_the_busiest_cell_until_there_is_a_cursor():
    async with running(large(12, 8, 2, 60)) as (app, _, _):
        heatmap = app.dashboard.experts
        counts = app.view.window.usage.counts
        layer, expert = divmod(int(counts.argmax()), 8)
        share = counts[layer, expert] / counts[layer].sum()
        readout = lines(heatmap)[-1]
        assert readout.startswith(f"▴ layer {layer + 1} · expert {expert} · {100 * share:.1f} % of 120")
        assert f" · {8 * share:.1f}× even" in readout


async def test_arrow_keys_move_the_cursor_and_the_readout():
    async with running() as (app, pilot, _):
        heatmap = app.dashboard.experts
        await press(app, pilot, "2", "down")
        start = heatmap.cursor
        await press(app, pilot, "left")
        layer, expert = heatmap.cursor
        assert (layer, expert) == (start[0], start[1] - 1)
        assert lines(heatmap)[-1].startswith(f"▸ layer {layer} · expert {expert} · ")
        assert f"[{round(100 * app.view.window.usage.shares()[layer, expert])}" in "".join(lines(heatmap))
        await press(app, pilot, *["up"] * 9, *["left"] * 20)
        assert heatmap.cursor == (None, 0)
        await press(app, pilot, *["down"] * 2, "left")
        assert heatmap.cursor == (1, None)


async def test_the_mouse_reads_a_cell_and_leaving_forgets_it():
    async with running() as (app, pilot, _):
        heatmap = app.dashboard.experts
        content = heatmap.content
        x = content.gutter + 3 * content.layout.cell_width + 1
        await pilot.hover(
            heatmap, offset=(x + heatmap.gutter.left, 1 + 2 * content.layout.rows_per_band + heatmap.gutter.top)
        )
        assert heatmap.cursor == (2, 3)
        await pilot.hover(app.dashboard.stream)
        assert heatmap.cursor is None


async def test_only_rows_that_differ_are_repainted(monkeypatch):
    async with running(large(32, 8, 2)) as (app, _, _):
        heatmap = app.dashboard.experts
        heatmap._shown_values = None
        levels = np.zeros((32, 8), np.int16)
        heatmap.set_levels(levels)
        repainted = []
        monkeypatch.setattr(heatmap, "refresh", lambda *regions: repainted.extend(region.y for region in regions))
        heatmap.set_levels(levels.copy())
        assert set(repainted) == set(heatmap._notes(32))
        repainted.clear()
        levels[8, 3] = 9
        heatmap.set_levels(levels)
        assert set(repainted) - set(heatmap._notes(32)) == {1 + 4}


async def test_without_colours_density_tells_more_from_less():
    async with running(theme="ansi-dark") as (app, _, _):
        heatmap = app.dashboard.experts
        shares = app.view.window.usage.shares()
        rows = lines(heatmap)
        dense = [rows[1 + 2 * layer] for layer in range(6) if shares[layer].max() > 0.3]
        assert dense
        assert all("▓" in row or "█" in row for row in dense)
        assert not any(
            isinstance(part.style, Style) and part.style.color and part.style.color.triplet
            for part in heatmap.render_line(1)
        )


async def test_a_layer_without_rows_is_not_drawn_as_zero():
    run = MadeUpRun()
    items = [
        msgspec.structs.replace(item, experts=item.experts[:-2] + [None] * 2) if isinstance(item, Token) else item
        for item in run.prompt()
    ]
    async with running(items) as (app, _, _):
        last = lines(app.dashboard.experts)[11]
        assert "·" in last
        assert "n/a" in last


class Bare(App[None]):
    def on_mount(self):
        self.register_theme(DARK)
        self.theme = DARK.name

    def compose(self):
        yield ExpertHeatmap()


async def test_it_can_be_used_on_its_own():
    async with Bare().run_test(size=(60, 20)) as pilot:
        heatmap = pilot.app.query_one(ExpertHeatmap)
        heatmap.styles.height = 20
        await pilot.pause()
        heatmap.set_levels(np.full((94, 512), 5, np.int16), np.tile(np.arange(10), (94, 1)))
        await pilot.pause()
        assert "▀" in lines(heatmap)[1]


async def test_a_new_run_with_another_shape_is_drawn_anew():
    async with running(main_run(40)) as (app, pilot, source):
        source.add(large(16, 4, 1))
        await settle(app, pilot)
        heatmap = app.dashboard.experts
        assert heatmap.content.layout.layers == 16
        assert lines(heatmap)[0].split()[:4] == ["0", "1", "2", "3"]
