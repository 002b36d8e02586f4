"""MLX with experts switched off, and with another number of experts per token, against `transformers`."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from moe_watch.backends.mlx.engine import load
from moe_watch.backends.mlx.masks import groups_of, selection_biases, why_no_mask
from moe_watch.backends.mlx.open_model import open_model
from moe_watch.backends.mlx.tap import RouterTap
from moe_watch.backends.model_files import catalog
from moe_watch.backends.model_files.config import read_config
from moe_watch.backends.model_files.selected_experts import with_experts_per_token
from moe_watch.backends.protocol import EngineOptions
from moe_watch.routing.errors import UserError
from moe_watch.routing.router.masks import ExpertGroups, ExpertMask
from tests.truth.expected import GATES
from tests.truth.masked.reference import (
    ANOTHER_K,
    MASKED,
    NOT_MASKED,
    Distance,
    Reference,
    distance,
    read_reference,
)
from tests.truth.mlx_comparison import MODELS, EngineRun, read_golden, run_pieces
from tests.truth.test_engine import as_folder

WEIGHTS, OUTPUT = 1e-5, 1e-4
"""Largest differences of weights over the gate's factor, and of output logits."""
ROUNDING = {"qwen3_next": 5.0, "qwen3_5_moe_text": 3.0, "longcat_flash": 3.0}
"""Factor of these bounds for models in which rounding errors grow."""

REFUSED = ("deepseek_v2",)
"""Models whose routers have neither a linear module nor a selection bias."""


SELECTS_ONE = ("llama4_text",)
"""Models for which mlx-lm refuses more than one expert per token."""


def open_tapped(name: str, k: int | None = None) -> tuple[nn.Module, RouterTap]:
    folder = MODELS / name
    config = read_config(folder)
    entries = None if k is None else with_experts_per_token(config, k, name)
    model = open_model(folder, config, entries=entries)[0]
    return model, RouterTap(model)


def run(name: str, reference: Reference, mask: ExpertMask | None = None) -> tuple[EngineRun, EngineRun]:
    """Return the run at once and the run token by token, with the mask or the number of experts of the reference."""
    model, tap = open_tapped(name, None if reference.mask else reference.k)
    tap.mask(reference.mask if mask is None else mask)
    ids = reference.golden.ids
    return run_pieces(model, tap, [ids]), run_pieces(model, tap, np.split(ids, len(ids)))


def check_equal(name: str, found: Distance) -> None:
    factor = ROUNDING.get(name, 1.0)
    assert found.unequal == 0
    assert found.output_logits <= OUTPUT * factor
    assert found.weights is not None
    assert found.weights <= WEIGHTS * factor


def masked_selected(layers: list[int], experts: np.ndarray, mask: ExpertMask) -> int:
    """Return the number of masked experts among the selected ones."""
    return sum(int(np.isin(experts[:, at], list(mask.masked(layer))).sum()) for at, layer in enumerate(layers))


@pytest.mark.parametrize("name", MASKED)
def test_a_masked_model_routes_as_transformers(name: str) -> None:
    reference, whole = read_reference(name, "masked.npz"), read_golden(name)
    at_once, stepwise = run(name, reference)
    for seen in (at_once, stepwise):
        check_equal(name, distance(seen, reference.golden))
        assert masked_selected(seen.layers, seen.experts, reference.mask) == 0
        assert np.isneginf(seen.logits).sum() == len(reference.mask) * len(whole.ids)
    assert masked_selected(at_once.layers, whole.experts, reference.mask) > len(whole.ids) // 4


@pytest.mark.parametrize("name", MASKED)
def test_numbers_of_a_masked_router_are_finite(name: str) -> None:
    reference = read_reference(name, "masked.npz")
    seen, _ = run(name, reference)
    observed = seen.observation()
    assert (observed.weights >= 0).all()
    assert (observed.entropy >= 0).all()
    assert (observed.margin >= 0).all()


@pytest.mark.parametrize("name", [name for name in ANOTHER_K if name not in SELECTS_ONE])
def test_another_k_routes_as_transformers(name: str) -> None:
    reference = read_reference(name, "another_k.npz")
    for seen in run(name, reference):
        assert seen.experts.shape[-1] == reference.k != read_golden(name).experts.shape[-1]
        check_equal(name, distance(seen, reference.golden))


@pytest.mark.parametrize("name", MASKED)
def test_without_its_mask_a_model_is_as_before(name: str) -> None:
    """To the last bit, in every array and module."""
    reference = read_reference(name, "masked.npz")
    model, tap = open_tapped(name)
    model.set_dtype(mx.float32)
    tokens = mx.array(reference.golden.ids)[None]
    before, members = np.array(model(tokens)), list(contents(model))
    for _ in range(2):
        tap.mask(reference.mask)
        masked = np.array(model(tokens))
        assert len(members) - len(unchanged(members, contents(model))) == changed_by_mask(tap, reference.mask)
        tap.mask(ExpertMask())
        assert len(unchanged(members, contents(model))) == len(members)
        assert np.abs(masked - before).max() > 1e-3
        np.testing.assert_array_equal(np.array(model(tokens)), before)
    tap.close()


def contents(model: nn.Module) -> Iterator[tuple[str, object]]:
    """Yield all arrays of a model by name."""
    for path, module in model.named_modules():
        yield from ((f"{path}.{name}", value) for name, value in module.items() if isinstance(value, mx.array))


def unchanged(before: list[tuple[str, object]], after: Iterator[tuple[str, object]]) -> list[str]:
    found = dict(after)
    return [name for name, array in before if found[name] is array]


def changed_by_mask(tap: RouterTap, mask: ExpertMask) -> int:
    """Return the number of arrays that a mask replaces: the selection biases of its layers."""
    return sum(len(list(selection_biases(layer))) for layer in tap.layers if mask.masked(layer.index))


@pytest.mark.parametrize("name", GATES)
def test_groups_are_those_of_the_config(name: str) -> None:
    config = read_config(MODELS / name)
    count = config.get("n_group") or config.get("num_expert_group") or 1  # Kimi's name
    used = config.get("topk_group") or 1
    tap = open_tapped(name)[1]
    assert groups_of(tap.layers) == (ExpertGroups(count, used) if count > used else None)
    assert bool(why_no_mask(tap.layers)) == (name in REFUSED)


def test_every_model_is_masked_or_refused_with_its_reason() -> None:
    assert sorted([*MASKED, *NOT_MASKED]) == sorted(GATES)


def test_the_comparison_notices_another_mask() -> None:
    reference = read_reference("mixtral", "masked.npz")
    (layer, expert), *rest = reference.mask.pairs
    at_once, _ = run("mixtral", reference, ExpertMask.of([(layer, (expert + 1) % 8), *rest]))
    found = distance(at_once, reference.golden)
    assert found.unequal > len(reference.golden.ids) // 4
    assert found.output_logits > 0.1


@pytest.mark.parametrize("name", ["mixtral", "glm4_moe", "jamba", "ernie4_5_moe_biased"])
def test_the_engine_masks_a_run(name: str, tmp_path: pathlib.Path) -> None:
    reference = read_reference(name, "masked.npz")
    golden = reference.golden
    engine = load(
        catalog.locate(str(as_folder(name, tmp_path / name))), options=EngineOptions(), progress=lambda _: None
    )
    engine.mask(reference.mask)
    routings = list(engine.prefill(golden.ids.tolist(), lambda _: None))
    experts = np.concatenate([np.stack(routing.experts, axis=1) for routing in routings])
    np.testing.assert_array_equal(np.sort(experts), np.sort(golden.experts))
    drawn = [engine.draw().routing for _ in range(8)]
    drawn_experts = np.concatenate([np.stack(routing.experts, axis=1) for routing in drawn])
    assert masked_selected(engine.model.layers, drawn_experts, reference.mask) == 0


def test_a_header_has_both_numbers_of_experts_per_token(tmp_path: pathlib.Path) -> None:
    location = catalog.locate(str(as_folder("qwen3_moe", tmp_path / "m")))
    engine = load(location, options=EngineOptions(experts_per_token=5), progress=lambda _: None)
    assert (engine.model.experts_per_token, engine.model.own_experts_per_token) == (5, 3)
    assert engine.backend.settings["experts_per_token"] == 5
    with pytest.raises(UserError, match=r"--experts-per-token is 9, and m has 8 experts per layer.*1 to 8"):
        load(location, options=EngineOptions(experts_per_token=9), progress=lambda _: None)


def test_llama_4_selects_one_expert(tmp_path: pathlib.Path) -> None:
    location = catalog.locate(str(as_folder("llama4_text", tmp_path / "m")))
    with pytest.raises(UserError, match=r"is 2, and mlx-lm .* cannot load m so \(Only 1 expert.*leave out"):
        load(location, options=EngineOptions(experts_per_token=2), progress=lambda _: None)


def test_more_experts_than_the_groups_hold_are_refused(tmp_path: pathlib.Path) -> None:
    location = catalog.locate(str(as_folder("glm4_moe", tmp_path / "m")))
    groups = load(location, options=EngineOptions(), progress=lambda _: None).groups
    assert groups is not None
    most = 8 // groups.count * groups.used
    with pytest.raises(UserError, match=f"a token's {groups.used} groups of m hold {most} experts.*1 to {most}"):
        load(location, options=EngineOptions(experts_per_token=most + 1), progress=lambda _: None)
