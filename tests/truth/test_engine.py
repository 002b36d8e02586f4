"""The whole way, from a model folder to token events, for every tiny model."""

from __future__ import annotations

import pathlib
import shutil

import numpy as np
import pytest

from moe_watch.backends.generation.observation import Evaluated, Observer, TokenFacts, captured
from moe_watch.routing.events import Sampling, Token
from tests.backends import tiny
from tests.backends.conftest import load_folder
from tests.truth.expected import CORRECTED, GATES
from tests.truth.mlx_comparison import MODELS, read_golden, run_model


def as_folder(name: str, folder: pathlib.Path) -> pathlib.Path:
    """A model folder as a person has it: with a tokenizer."""
    folder.mkdir()
    for file in ("config.json", "model.safetensors"):
        shutil.copy(MODELS / name / file, folder)
    tiny.write_tokenizer(folder)
    return folder


@pytest.mark.parametrize("name", GATES)
def test_token_events_say_what_was_routed(name: str, tmp_path: pathlib.Path) -> None:
    golden = read_golden(name)
    engine = load_folder(as_folder(name, tmp_path / name))
    tokens, layers, experts = golden.router_logits.shape
    assert engine.model.gate == GATES[name]
    assert "weights" in captured(engine.model.gate, sees_weights=engine.sees_weights)
    assert engine.model.layers == golden.layers.tolist()
    assert (engine.model.experts, engine.model.experts_per_token) == (experts, golden.experts.shape[-1])
    engine.configure(Sampling(temperature=0.0, seed=0, stop="never"), reseed=True)
    steps, seen = list(engine.prefill(golden.ids.tolist(), lambda _: None)), list[Token]()
    for step in steps:
        facts = [TokenFacts(len(seen) + row, 0.0, "prompt", 2, "x") for row in range(step.tokens)]
        seen += Observer(engine.model).tokens([Evaluated(facts, step)])
    drawn = [engine.draw() for _ in range(4)]
    assert [token.routing.tokens for token in drawn] == [1] * 4
    observation = run_model(name, golden.ids).observation()
    events = np.array([token.experts for token in seen]).reshape(tokens, layers, -1)
    np.testing.assert_array_equal(events, observation.experts)
    for quantity in ("weights", "entropy", "margin"):
        recorded = np.array([getattr(token, quantity) for token in seen])
        np.testing.assert_allclose(recorded, getattr(observation, quantity).reshape(tokens, -1), rtol=1e-4, atol=2)
    np.testing.assert_array_equal(np.sort(events), np.sort(golden.experts))
    of_settings = [each for each in engine.warnings if "context length" not in each]
    assert len(of_settings) == (name in CORRECTED)
    assert all("added by moe-watch" in each for each in of_settings)
