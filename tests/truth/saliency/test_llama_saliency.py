"""llama.cpp's scorer against `transformers` in float32: counts, weight sums, and saliency per layer and expert.

models/truth/saliency.py wrote the references: the norm of each selected expert's weighted output, per token.
"""

from __future__ import annotations

import pathlib
from functools import cache

import numpy as np
import pytest

pytest.importorskip("llama_cpp", reason="the llama.cpp engine is not installed: pip install moe-watch[llama]")

from moe_watch.backends.llama.engine import LlamaEngine
from moe_watch.backends.llama.loading import load_model
from moe_watch.backends.model_files import catalog
from moe_watch.backends.protocol import EngineOptions
from moe_watch.backends.scoring.windows import WindowScoring
from moe_watch.backends.scoring_messages import Score, UsageSums
from tests.truth.expected import GATES
from tests.truth.llama_comparison import ignore
from tests.truth.llama_expected import DIFFERENT, NOT_CONVERTED
from tests.truth.mlx_comparison import MODELS, Array, read_golden

REFERENCES = pathlib.Path(__file__).with_name("references.npz")

EQUAL = [name for name in GATES if name not in NOT_CONVERTED and name not in DIFFERENT]

TOLERANCE = {"gemma4_text": 5e-4}
"""llama.cpp looks the GELU up in a table of half precision."""


@cache
def usage(name: str) -> UsageSums:
    """Score the golden sequence as the worker does, and return the sums of its routing."""
    location = catalog.locate(str(MODELS / name / "model.gguf"), "llama.cpp")
    engine = LlamaEngine(load_model(location, options=EngineOptions(threads=1), progress=ignore))
    ids = read_golden(name).ids.tolist()
    scoring = WindowScoring(engine)
    try:
        [whole] = scoring.score(Score(ids=ids, window=len(ids), usage=True, saliency=True))
    finally:
        scoring.close()
        engine.close()
    assert whole.usage is not None
    return whole.usage


def reference(name: str) -> Array:
    """Return the sums of norms [L, E] of `transformers`."""
    with np.load(REFERENCES) as found:
        return np.asarray(found[name].astype(np.float64).sum(0))


def per_token(sums: Array | list[list[float]] | None, counts: Array) -> Array:
    """Return the mean over the tokens of each expert [L, E]; 0 for an expert without tokens."""
    assert sums is not None
    return np.asarray(np.asarray(sums) / np.maximum(counts, 1))


def test_there_is_a_reference_for_every_model() -> None:
    with np.load(REFERENCES) as found:
        assert set(found) >= set(EQUAL)
    assert len(EQUAL) > 25


@pytest.mark.parametrize("name", EQUAL)
def test_counts_and_weights_are_those_of_transformers(name: str) -> None:
    golden, found = read_golden(name), usage(name)
    tokens, layers, k = golden.experts.shape
    assert found.rows == [tokens] * layers
    weights = golden.all_weights()
    np.testing.assert_array_equal(found.counts, (weights != 0).sum(0))
    assert np.sum(found.counts, axis=1).tolist() == [tokens * k] * layers
    if "per_expert" in GATES[name]:
        assert found.weights is None
    else:
        np.testing.assert_allclose(found.weights, weights.sum(0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", EQUAL)
def test_saliency_is_that_of_transformers(name: str) -> None:
    found = usage(name)
    counts = np.array(found.counts)
    tolerance = TOLERANCE.get(name, 1e-5)
    np.testing.assert_allclose(per_token(found.norms, counts), per_token(reference(name), counts), rtol=tolerance)
    assert (reference(name)[counts == 0] == 0).all()


@pytest.mark.parametrize("name", ["gpt_oss", "llama4_text", "mixtral", "deepseek_v3"])
def test_the_comparison_notices_another_expert_and_a_missing_weight(name: str) -> None:
    found = usage(name)
    counts = np.array(found.counts)
    used = counts > 0
    saliency, expected = per_token(found.norms, counts), per_token(reference(name), counts)
    assert np.abs(np.roll(saliency, 1, axis=1)[used] / expected[used] - 1).max() > 0.1
    assert np.abs(saliency[used] / per_token(found.weights, counts)[used] / expected[used] - 1).max() > 0.1
