"""Dense models on both engines against `transformers`: the same log-probabilities and margins, token by token."""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Iterator

import numpy as np
import pytest

from moe_watch.backends.engine import Engine, SampledToken
from moe_watch.backends.generation.observation import Evaluated, Observer, TokenFacts, captured
from moe_watch.backends.model_files import catalog
from moe_watch.backends.model_files.preflight import preflight
from moe_watch.backends.protocol import EngineOptions
from moe_watch.routing.events import Sampling
from moe_watch.routing.header import NO_GATE, NO_TAP
from tests.backends import tiny
from tests.backends.conftest import load_folder

DENSE = pathlib.Path(__file__).with_name("dense")
NAMES = ("llama", "mistral", "qwen3")
ENGINES = ("mlx", "llama.cpp")

TOLERANCE = 2e-4
"""Largest difference of a log-probability, in nats; both sides compute in float32. A wrong rotation gives over 0.1."""

PROMPT = 8
"""Tokens that are evaluated at once; the tokens after them are forced one by one."""


def opened(name: str, engine: str, tmp_path: pathlib.Path) -> Engine:
    """Return the engine with a model, loaded as the worker loads it."""
    if engine == "llama.cpp":
        pytest.importorskip("llama_cpp", reason="the llama.cpp engine is not installed")
        from moe_watch.backends.llama.engine import load

        location = catalog.locate(str(DENSE / name / "model.gguf"))
        preflight(location)
        return load(location, options=EngineOptions(threads=1), progress=lambda _: None)
    folder = tmp_path / name
    folder.mkdir()
    for file in ("config.json", "model.safetensors"):
        shutil.copy(DENSE / name / file, folder)
    tiny.write_tokenizer(folder)
    preflight(catalog.locate(str(folder)))
    return load_folder(folder)


@pytest.fixture(params=[(name, engine) for name in NAMES for engine in ENGINES], ids="-".join)
def model(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[tuple[str, Engine]]:
    """Name and engine of each model."""
    name, kind = request.param
    engine = opened(name, kind, tmp_path)
    yield name, engine
    engine.close()


def forced(engine: Engine, ids: list[int]) -> list[SampledToken]:
    """Return the tokens after the prompt, forced, with the predictions of the model."""
    engine.configure(Sampling(temperature=1.0, seed=0, stop="never"), reseed=True)
    assert [step.tokens for step in engine.prefill(ids[:PROMPT], lambda _: None)]
    engine.force(ids[PROMPT:])
    return [engine.draw(last=at == len(ids) - PROMPT - 1) for at in range(len(ids) - PROMPT)]


def test_the_suite_is_whole() -> None:
    assert {folder.name for folder in DENSE.iterdir()} == set(NAMES)
    assert sum(path.stat().st_size for path in DENSE.glob("*/*")) < 700_000


def test_predictions_equal_those_of_transformers(model: tuple[str, Engine]) -> None:
    name, engine = model
    golden = np.load(DENSE / name / "golden.npz")
    ids, logits = golden["ids"].tolist(), golden["output_logits"].astype(np.float64)
    expected = logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
    expected -= logits.max(-1, keepdims=True)
    seen = forced(engine, ids)
    assert [token.id for token in seen] == ids[PROMPT:]
    rows = np.arange(PROMPT, len(ids))
    logprobs = expected[rows - 1, golden["ids"][rows]]
    np.testing.assert_allclose([token.logprob for token in seen], logprobs, rtol=0, atol=TOLERANCE)
    assert logprobs.std() > 1, "predictions that are all alike show nothing"
    ranked = np.sort(np.exp(expected[rows - 1]), -1)
    np.testing.assert_allclose([t.top_margin for t in seen], ranked[:, -1] - ranked[:, -2], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose([t.choice_gap for t in seen], ranked[:, -1] - np.exp(logprobs), rtol=0, atol=TOLERANCE)


def test_a_dense_model_has_no_routing(model: tuple[str, Engine]) -> None:
    _, engine = model
    info = engine.model
    assert (info.layers, info.experts, info.experts_per_token, info.gate) == ([], 0, 0, NO_GATE)
    assert info.is_dense
    assert (info.expert_bytes, info.non_expert_bytes) == (None, info.bytes)
    assert engine.backend.tap == NO_TAP
    assert captured(info.gate, sees_weights=engine.sees_weights) == ["logprob"]
    assert not [warning for warning in engine.warnings if "rout" in warning or "ignored" in warning]
    engine.configure(Sampling(temperature=0.0, seed=0, stop="never"), reseed=True)
    steps = list(engine.prefill([2, 3, 4], lambda _: None))
    facts = [TokenFacts(i, 0.0, "prompt", 2, "x") for i in range(3)]
    events = [event for step in steps for event in Observer(info).tokens([Evaluated(facts[: step.tokens], step)])]
    assert len(events) == 3
    assert all(
        (token.experts, token.weights, token.entropy, token.margin) == ([], None, None, None) for token in events
    )


def test_the_tap_can_be_turned_off_and_on(model: tuple[str, Engine]) -> None:
    _, engine = model
    engine.configure(Sampling(temperature=0.0, seed=0, stop="never"), reseed=True)
    list(engine.prefill([2, 3, 4], lambda _: None))
    first = [engine.draw(last=True).id for _ in range(3)]
    engine.reset()
    list(engine.prefill([2, 3, 4], lambda _: None))
    engine.observe(False)
    second = [engine.draw(last=True).id for _ in range(2)]
    engine.observe(True)
    assert [*second, engine.draw(last=True).id] == first
