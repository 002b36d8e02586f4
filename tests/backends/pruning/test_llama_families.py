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
from tests.truth.llama_comparison import ignore, run_pieces
from tests.truth.mlx_comparison import MODELS, EngineRun, read_golden

NAMES = sorted(folder.parent.name for folder in MODELS.glob("*/model.gguf"))
CLOSE = 1e-4


def run(path: pathlib.Path, name: str, mask: ExpertMask | None = None) -> tuple[EngineRun, LlamaEngine]:
    location = catalog.locate(str(path), "llama.cpp")
    loaded = load_model(location, options=EngineOptions(threads=1), progress=ignore)
    engine = LlamaEngine(loaded)
    try:
        if mask is not None:
            engine.mask(mask)
        return run_pieces(engine, loaded, [[token] for token in read_golden(name).ids.tolist()]), engine
    finally:
        engine.close()


@pytest.mark.parametrize("name", NAMES)
def test_a_pruned_file_equals_the_masked_one(name: str, tmp_path: pathlib.Path) -> None:
    whole = MODELS / name / "model.gguf"
    model = read_prunable_model(prunable_location(str(whole), tmp_path / "x.gguf"))
    if model.groups is not None and model.experts // model.groups.count <= 2:
        pytest.skip("its groups have two experts, which they keep")
    keep = model.experts - (model.groups.count if model.groups is not None else 2)
    kept = prune(whole, tmp_path / "pruned.gguf", keep=keep)

    pruned, engine = run(tmp_path / "pruned.gguf", name)
    masked, _ = run(whole, name, mask_of(kept, model.experts))

    ids = np.array(engine.model.expert_ids)  # [L, E]
    assert ids.tolist() == [kept[layer] for layer in model.layers]
    assert engine.model.experts == keep
    original = ids[np.arange(len(ids))[None, :, None], pruned.experts]
    assert np.array_equal(np.sort(original), np.sort(masked.experts))
    assert np.abs(pruned.output_logits - masked.output_logits).max() < CLOSE
