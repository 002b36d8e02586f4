"""A pruned GGUF file equals the whole one with the same experts masked: all families, in float32."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from moe_watch.backends.llama.engine import LlamaEngine
from moe_watch.backends.llama.loading import load_model
from moe_watch.backends.model_files import catalog
from moe_watch.backends.protocol import EngineOptions
from moe_watch.backends.pruning.pruner import prunable_location, read_prunable_model
from moe_watch.routing.router.masks import ExpertMask
from tests.backends.pruning.pruned_files import mask_of, prune
from tests.truth import published_shapes as shapes
from tests.truth.llama_comparison import ignore, run_pieces
from tests.truth.mlx_comparison import MODELS, EngineRun, read_golden

NAMES = sorted(folder.parent.name for folder in MODELS.glob("*/model.gguf"))
CLOSE = 1e-4
GROUPED = [("bailing_hybrid_8_of_256", 64), ("deepseek_v2_6_of_160", 80), ("deepseek_v3_8_of_256", 128)]
"""Models of published shape with 8 groups, and the number of experts that they keep."""
TOKENS = 60


def run(path: pathlib.Path, ids: list[int], mask: ExpertMask | None = None) -> tuple[EngineRun, LlamaEngine]:
    location = catalog.locate(str(path), "llama.cpp")
    loaded = load_model(location, options=EngineOptions(threads=1), progress=ignore)
    engine = LlamaEngine(loaded)
    try:
        if mask is not None:
            engine.mask(mask)
        return run_pieces(engine, loaded, [[token] for token in ids]), engine
    finally:
        engine.close()


def check(whole: pathlib.Path, folder: pathlib.Path, ids: list[int], keep: int) -> None:
    """Prune a file at random, and compare it with the masked one."""
    model = read_prunable_model(prunable_location(str(whole), folder / "pruned.gguf"))
    kept = prune(whole, folder / "pruned.gguf", keep=keep)

    pruned, engine = run(folder / "pruned.gguf", ids)
    masked, _ = run(whole, ids, mask_of(kept, model.experts))

    numbers = np.array(engine.model.expert_ids)  # [L, E]
    assert numbers.tolist() == [kept[layer] for layer in model.layers]
    assert engine.model.experts == keep
    original = numbers[np.arange(len(numbers))[None, :, None], pruned.experts]
    assert np.array_equal(np.sort(original), np.sort(masked.experts))
    assert np.abs(pruned.output_logits - masked.output_logits).max() < CLOSE


@pytest.mark.parametrize("name", NAMES)
def test_a_pruned_file_equals_the_masked_one(name: str, tmp_path: pathlib.Path) -> None:
    whole = MODELS / name / "model.gguf"
    model = read_prunable_model(prunable_location(str(whole), tmp_path / "x.gguf"))
    if model.groups is not None and model.experts // model.groups.count <= 2:
        pytest.skip("its groups have two experts, which they keep")
    keep = model.experts - (model.groups.count if model.groups is not None else 2)
    check(whole, tmp_path, read_golden(name).ids.tolist(), keep)


@pytest.mark.parametrize(("name", "keep"), GROUPED)
def test_groups_keep_equal_numbers(name: str, keep: int, tmp_path: pathlib.Path) -> None:
    ids = shapes.read_golden(name).ids.tolist()[:TOKENS]
    check(shapes.folder(name) / "model.gguf", tmp_path, ids, keep)
