"""A pruned model folder equals the whole one with the same experts masked: all families that can be masked."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from moe_watch.backends.engine import Engine
from moe_watch.backends.pruning.pruner import prunable_location, read_prunable_model
from moe_watch.routing.errors import UserError
from moe_watch.routing.router.masks import ExpertMask
from tests.backends.conftest import load_folder
from tests.backends.pruning.pruned_files import mask_of, prune
from tests.truth import published_shapes as shapes
from tests.truth.expected import GATES
from tests.truth.mlx_comparison import Array, read_golden
from tests.truth.test_engine import as_folder

CLOSE = 1e-4
GROUPED = [("glm4_moe_negative_scores", 64), ("deepseek_v3_8_of_256", 128)]
"""Models of published shape with groups, and the number of experts that they keep."""
TOKENS = 60
REFUSED = {"longcat_flash": "identity experts"}
"""Models that are not pruned, and a part of the reason."""


def scored(engine: Engine, ids: list[int], mask: ExpertMask | None = None) -> tuple[Array, Array]:
    """Logits [T, V] and expert sets [T, L, k], each ascending."""
    scorer = engine.scorer(len(ids), usage=True, saliency=False)
    if mask is not None:
        scorer.mask(mask)
    batches = list(scorer.evaluate(ids))
    experts = np.concatenate([np.stack(batch.routing.experts, axis=1) for batch in batches])  # type: ignore[arg-type]
    return np.concatenate([batch.logits for batch in batches]), np.sort(experts)


def check(whole: pathlib.Path, output: pathlib.Path, ids: list[int], keep: int) -> None:
    """Prune a folder at random, and compare it with the masked one."""
    model = read_prunable_model(prunable_location(str(whole), output))
    kept = prune(whole, output, keep=keep)
    engine = load_folder(output)
    logits, experts = scored(engine, ids)
    numbers = np.array(engine.model.expert_ids)
    assert numbers.tolist() == [kept[layer] for layer in model.layers]
    reference = load_folder(whole)
    if reference.why_no_mask:
        pytest.skip(reference.why_no_mask)
    expected, selected = scored(reference, ids, mask_of(kept, model.experts))
    assert np.array_equal(np.sort(numbers[np.arange(len(numbers))[None, :, None], experts]), selected)
    assert np.abs(logits - expected).max() < CLOSE


@pytest.mark.parametrize("name", GATES)
def test_a_pruned_folder_equals_the_masked_one(name: str, tmp_path: pathlib.Path) -> None:
    whole = as_folder(name, tmp_path / "whole")
    location = prunable_location(str(whole), tmp_path / "pruned")
    if name in REFUSED:
        with pytest.raises(UserError, match=REFUSED[name]):
            read_prunable_model(location)
        return
    model = read_prunable_model(location)
    if model.groups is not None and model.experts // model.groups.count <= 2:
        pytest.skip("its groups have two experts, which they keep")
    keep = model.experts - (model.groups.count if model.groups is not None else 2)
    check(whole, tmp_path / "pruned", read_golden(name).ids.tolist(), keep)


@pytest.mark.parametrize(("name", "keep"), GROUPED)
def test_groups_keep_equal_numbers(name: str, keep: int, tmp_path: pathlib.Path) -> None:
    ids = shapes.read_golden(name).ids.tolist()[:TOKENS]
    check(shapes.folder(name), tmp_path / "pruned", ids, keep)
