"""Dense models on both engines against `transformers`: the same log-probabilities and margins, token by token."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import numpy as np
import pytest

from moe_watch.backends.engine import Engine
from moe_watch.backends.generation.observation import Evaluated, Observer, TokenFacts, captured
from moe_watch.routing.events import Sampling
from moe_watch.routing.header import NO_GATE, NO_TAP
from tests.truth.dense_comparison import DENSE, ENGINES, NAMES, PROMPT, expected, opened, seen

TOLERANCE = 2e-5
"""Largest difference of a log-probability, in nats; both sides compute in float32."""


@pytest.fixture(params=[(name, engine) for name in NAMES for engine in ENGINES], ids="-".join)
def model(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[tuple[str, Engine]]:
    """Name and engine of each model."""
    name, kind = request.param
    if kind == "llama.cpp":
        pytest.importorskip("llama_cpp", reason="the llama.cpp engine is not installed")
    with opened(name, kind, tmp_path) as engine:
        yield name, engine


def test_the_suite_is_whole() -> None:
    assert {folder.name for folder in DENSE.iterdir()} == set(NAMES)
    assert sum(path.stat().st_size for path in DENSE.glob("*/*")) < 700_000


def test_predictions_equal_those_of_transformers(model: tuple[str, Engine]) -> None:
    name, engine = model
    golden = expected(name)
    found = seen(engine, golden.ids.tolist())
    np.testing.assert_array_equal(found.ids, golden.ids[PROMPT:])
    assert golden.logprob.std() > 1, "predictions that are all alike show nothing"
    for quantity in ("logprob", "top_margin", "choice_gap"):
        np.testing.assert_allclose(getattr(found, quantity), getattr(golden, quantity), rtol=0, atol=TOLERANCE)


def test_another_model_is_found_to_differ(tmp_path: pathlib.Path) -> None:
    """Negative control: the same tokens on a model with another rotation."""
    golden = expected("llama")
    with opened("mistral", "mlx", tmp_path) as engine:
        other = seen(engine, golden.ids.tolist())
    assert np.abs(other.logprob - golden.logprob).max() > 1000 * TOLERANCE


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
