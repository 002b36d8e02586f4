"""Masks on MLX: a masked router is the router of a block without these experts; undone, nothing is left."""

from __future__ import annotations

import pathlib
import re
from collections import defaultdict
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_map
from mlx_lm.models import Klear, deepseek_v3, glm4_moe_lite, longcat_flash, muse_spark

from moe_watch.backends.engine import Engine
from moe_watch.backends.mlx import masks
from moe_watch.backends.mlx.layers import family_of, moe_layers
from moe_watch.backends.mlx.open_model import open_model
from moe_watch.backends.mlx.tap import RouterTap
from moe_watch.backends.model_files.config import read_config
from moe_watch.routing.errors import UserError
from moe_watch.routing.router.masks import ExpertGroups, ExpertMask
from tests.backends import tiny
from tests.backends.conftest import load_folder
from tests.backends.mlx import test_gates as blocks
from tests.backends.mlx.test_engine import PROMPT, begin, draw, sets
from tests.backends.mlx.test_gates import EXPERTS, SIGMOID, OneLayer, build, half, make, tokens
from tests.truth.expected import GATES
from tests.truth.mlx_comparison import MODELS

OFF = (1, 6)
"""One expert of each of two groups."""
KEPT = [expert for expert in range(EXPERTS) if expert not in OFF]
MASK = ExpertMask.of((0, expert) for expert in OFF)

COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
SELECTED = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_top_k", "moe_k")

BLOCKS = blocks.BLOCKS | {
    "deepseek_v3": (make(deepseek_v3.DeepseekV3MoE), SIGMOID),
    "glm4_moe_lite": (make(glm4_moe_lite.Glm4MoeLiteMoE), SIGMOID),
}

REFUSED = {"deepseek": "the router of mlx-lm's deepseek has neither a linear module nor a selection bias"}
MASKED = [name for name in BLOCKS if name not in REFUSED]


@pytest.fixture(autouse=True)
def two_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two groups of four experts, and two experts per token, so that every group has a choice."""
    for name in ("n_group", "num_expert_group"):
        monkeypatch.setitem(blocks.ARGS, name, 2)
    monkeypatch.setitem(blocks.ARGS, "topk_group", 1)
    for name in SELECTED:
        monkeypatch.setitem(blocks.ARGS, name, 2)


def run(model: OneLayer, tap: RouterTap, x: mx.array) -> tuple[np.ndarray, Any]:
    output = model(x)
    return np.array(output.astype(mx.float32)), tap.frame.read(x.shape[1])


def without(model: OneLayer, name: str, monkeypatch: pytest.MonkeyPatch) -> OneLayer:
    """Return the block with these experts removed from every array."""
    for key in COUNTS:
        monkeypatch.setitem(blocks.ARGS, key, len(KEPT))
    pruned = OneLayer(BLOCKS[name][0]())
    kept = mx.array(KEPT)
    pruned.update(tree_map(lambda array: array[kept] if array.shape[0] == EXPERTS else array, model.parameters()))
    return pruned


@pytest.mark.parametrize("name", MASKED)
def test_a_masked_block_is_the_block_without_these_experts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = build(BLOCKS[name][0]), tokens()
    tap = RouterTap(model)
    whole, before = run(model, tap, x)
    tap.mask(MASK)
    masked, routing = run(model, tap, x)
    pruned = without(model_without_hooks(tap, model), name, monkeypatch)
    expected, of_pruned = run(pruned, RouterTap(pruned), x)
    np.testing.assert_allclose(masked, expected, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(np.sort(routing.experts[0]), np.sort(np.array(KEPT)[of_pruned.experts[0]]))
    assert np.isneginf(routing.logits[0][:, OFF]).all()
    np.testing.assert_allclose(routing.logits[0][:, KEPT], of_pruned.logits[0], rtol=0, atol=1e-5)
    assert np.isin(before.experts[0], OFF).sum() > 3, "a mask of unused experts shows nothing"
    assert np.abs(masked - whole).max() > 1e-3


def model_without_hooks(tap: RouterTap, model: OneLayer) -> OneLayer:
    tap.mask(ExpertMask())
    tap.close()
    return model


@pytest.mark.parametrize("name", MASKED)
def test_half_precision_is_masked_too(name: str) -> None:
    model, x = half(build(BLOCKS[name][0])), tokens(mx.bfloat16)
    tap = RouterTap(model)
    whole, before = run(model, tap, x)
    tap.mask(MASK)
    output = model(x)
    routing = tap.frame.read(x.shape[1])
    assert output.dtype == mx.bfloat16
    assert not np.isin(routing.experts[0], OFF).any()
    np.testing.assert_array_equal(routing.logits[0][:, KEPT], before.logits[0][:, KEPT])
    tap.mask(ExpertMask())
    np.testing.assert_array_equal(run(model, tap, x)[0], whole)


@pytest.mark.parametrize("name", BLOCKS)
def test_groups_and_refusals_are_those_of_the_code(name: str) -> None:
    layers = list(moe_layers(build(BLOCKS[name][0])))
    grouped = ("deepseek_v3", "glm4", "mimo", "bailing", "kimi")
    assert masks.groups_of(layers) == (ExpertGroups(2, 1) if name.startswith(grouped) else None)
    assert masks.why_no_mask(layers) == REFUSED.get(name, "")


def test_experts_that_do_nothing_can_be_masked() -> None:
    """LongCat's router also scores experts that return their input; their numbers follow the container's."""
    model, x = build(make(longcat_flash.LongcatFlashMoE, zero_expert_num=4)), tokens()
    tap = RouterTap(model)
    off = [0, EXPERTS, EXPERTS + 3]
    assert np.isin(run(model, tap, x)[1].experts[0], off[1:]).any()
    tap.mask(ExpertMask.of((0, expert) for expert in off))
    routing = run(model, tap, x)[1]
    assert not np.isin(routing.experts[0], off).any()
    assert np.isneginf(routing.logits[0][:, off]).all()


def test_families_whose_routing_is_not_read_are_refused() -> None:
    for module, block in (
        ("Klear", build(make(Klear.KlearSparseMoeBlock))),
        ("muse_spark", build(lambda: muse_spark.MoE(spark()))),
    ):
        assert masks.why_no_mask(list(moe_layers(block))) == f"the router of mlx-lm's {module} cannot be read"


def spark() -> Any:
    """Settings of Muse Spark's block."""
    args = blocks.ARGS | {"moe_hidden_size": 32, "output_multiplier": 1.0, "rms_norm_eps": 1e-6, "post_norm_eps": 1e-6}
    return blocks.SimpleNamespace(**args)


def test_a_softmax_of_a_bare_weight_is_refused() -> None:
    """The other weights would still share the probability with a masked expert."""
    layers = list(moe_layers(build(make(blocks.deepseek_v41.MoE, scoring_func="softmax"))))
    assert masks.why_no_mask(layers) == "the softmax of mlx-lm's deepseek_v41 is over a product that no module outputs"


PAGE = pathlib.Path(__file__).resolve().parents[3] / "docs" / "families.md"


def test_the_page_has_what_is_masked_in_every_family() -> None:
    rows = [row.split("|")[1:-1] for row in PAGE.read_text(encoding="utf-8").splitlines() if row.startswith("| `")]
    listed = {
        family: set(cells[4].partition(";")[0].strip().split(", "))
        for cells in rows
        if len(cells) == 5
        for family in re.findall(r"`(\w+)`", cells[0])
    }
    found: dict[str, set[str]] = defaultdict(set, Klear={"refused"}, muse_spark={"refused"})
    models = [build(block) for block, _ in BLOCKS.values()]
    models += [open_model(MODELS / name, read_config(MODELS / name))[0] for name in GATES]
    for layer in (layer for model in models for layer in moe_layers(model)):
        if masks.why_no_mask([layer]):
            found[layer.family].add("refused")
            continue
        found[layer.family] |= {"logits"} if layer.linear is not None else set()
        found[layer.family] |= {"bias"} if list(masks.selection_biases(layer)) else set()
    assert found == listed


# -- the engine


@pytest.fixture(scope="module")
def glm(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return load_folder(tiny.write_model(tmp_path_factory.mktemp("glm") / "m", tiny.GLM4))


@pytest.fixture
def qwen(tmp_path: pathlib.Path) -> Engine:
    return load_folder(tiny.write_model(tmp_path / "m", tiny.QWEN3))


def test_a_mask_holds_from_the_next_token_on(qwen: Engine) -> None:
    begin(qwen)
    whole = [token.id for token in draw(qwen, 20)]
    before = begin(qwen)
    used = np.bincount(sets(before)[:, 0].ravel(), minlength=8).argmax()
    mask = ExpertMask.of([(1, int(used))])
    first = [*draw(qwen, 4), qwen.draw(last=True)]
    qwen.mask(mask)
    masked = [*draw(qwen, 9), qwen.draw(last=True)]
    qwen.mask(ExpertMask())
    after = draw(qwen, 5)
    assert [token.id for token in first] == whole[:5]
    assert not (sets([token.routing for token in masked])[:, 0] == used).any()
    assert (sets([token.routing for token in first + after])[:, 0] == used).any()
    assert all(np.isneginf(token.routing.logits[0][0, used]) for token in masked)
    assert all(np.isfinite(token.routing.logits[0]).all() for token in after)
    begin(qwen)
    assert [token.id for token in draw(qwen, 20)] == whole


def test_a_mask_needs_an_empty_pipeline(qwen: Engine) -> None:
    begin(qwen)
    qwen.draw()
    with pytest.raises(RuntimeError, match="last=True"):
        qwen.mask(ExpertMask.of([(1, 0)]))


def test_a_mask_holds_with_the_tap_off(qwen: Engine) -> None:
    mask = ExpertMask.of([(1, 0), (1, 3), (2, 5)])
    qwen.mask(mask)
    begin(qwen)
    expected = [token.id for token in draw(qwen, 20)]
    qwen.reset()
    qwen.mask(ExpertMask())
    begin(qwen)
    assert [token.id for token in draw(qwen, 20)] != expected
    qwen.reset()
    qwen.observe(False)
    qwen.mask(mask)
    begin(qwen)
    assert [token.id for token in draw(qwen, 20)] == expected
    qwen.observe(True)
    [*_, routing] = begin(qwen)
    assert np.isneginf(routing.logits[0][:, [0, 3]]).all()


def test_nothing_is_hooked_or_replaced_without_a_mask() -> None:
    model = tiny.random_model(tiny.GLM4)
    tap = RouterTap(model)
    before = {path: type(module) for path, module in model.named_modules()}
    tap.mask(ExpertMask())
    assert {path: type(module) for path, module in model.named_modules()} == before
    assert tap.frame.off == {}


def test_the_engine_refuses_what_leaves_no_choice(glm: Engine, qwen: Engine, tmp_path: pathlib.Path) -> None:
    assert glm.groups == ExpertGroups(2, 1)
    with pytest.raises(UserError, match="1 of 2 groups of layer 1 could hold fewer than 3 experts"):
        glm.mask(ExpertMask.of([(1, 0), (1, 1)]))
    with pytest.raises(UserError, match="would keep 2 of 8 experts, and selects 3"):
        qwen.mask(ExpertMask.of((1, expert) for expert in range(6)))
    klear = load_folder(tiny.write_model(tmp_path / "klear", tiny.KLEAR))
    with pytest.raises(UserError, match="cannot be switched off: the router of mlx-lm's Klear cannot be read"):
        klear.mask(ExpertMask.of([(0, 0)]))
    dense = load_folder(tiny.write_model(tmp_path / "dense", tiny.DENSE))
    with pytest.raises(UserError, match="cannot be switched off: it is a dense model"):
        dense.mask(ExpertMask.of([(0, 0)]))


def test_a_masked_expert_that_is_selected_ends_the_run(glm: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its selection bias at −∞, a score of 0 plus the bias is still selected."""
    monkeypatch.setattr(masks, "selection_biases", lambda _: iter(()))
    used = int(np.bincount(sets(begin(glm))[:, 0].ravel(), minlength=8).argmax())
    glm.mask(ExpertMask.of([(1, used)]))
    with pytest.raises(UserError, match=rf"layer 1 selects expert {used}, which is switched off"):
        begin(glm)
    glm.mask(ExpertMask())
    begin(glm)


def test_a_damaged_router_is_still_refused(tmp_path: pathlib.Path) -> None:
    model = tiny.random_model(tiny.QWEN3)
    model.layers[1].mlp.gate.weight[2] = mx.nan
    tap = RouterTap(model)
    tap.mask(ExpertMask.of([(1, 0)]))
    model(mx.array([PROMPT]))
    with pytest.raises(UserError, match="the router of layer 1 outputs nan for expert 2"):
        tap.frame.read(len(PROMPT))


def test_a_fork_keeps_the_mask(qwen: Engine) -> None:
    begin(qwen)
    qwen.mask(ExpertMask.of([(1, 0)]))
    qwen.draw(last=True)
    with qwen.fork() as rewind:
        first = [token.id for token in draw(qwen, 6)]
        rewind()
        assert [token.id for token in draw(qwen, 6)] == first
    assert np.isneginf(qwen.draw().routing.logits[0][:, 0]).all()


def test_a_hooked_module_keeps_the_file_of_its_class() -> None:
    """It distinguishes families."""
    model = tiny.random_model(tiny.QWEN3)
    router, block = model.layers[1].mlp.gate, model.layers[1].mlp
    RouterTap(model).mask(ExpertMask.of([(1, 0)]))
    assert type(router).__module__ == nn.Linear.__module__
    assert family_of(block) == "qwen3_moe"
