"""The embedded model, through the engine, compared with `transformers`."""

from __future__ import annotations

import pathlib

import numpy as np

from moe_watch.backends.mlx.engine import load
from moe_watch.backends.model_files import catalog
from moe_watch.backends.protocol import EngineOptions
from moe_watch.routing.events import Sampling
from tests.backends.mlx.test_engine import draw, logits, sets

GOLDEN = pathlib.Path(__file__).parents[2] / "pocket" / "golden_transformers.npz"


def test_pocket_routes_as_in_transformers() -> None:
    golden = np.load(GOLDEN)
    ids, prompt_tokens = golden["ids"].tolist(), int(golden["prompt_tokens"])
    engine = load(catalog.locate("pocket", "mlx"), options=EngineOptions(), progress=lambda _: None)
    engine.configure(Sampling(temperature=0.0, seed=0, stop="never"), reseed=True)
    prompt = engine.encode(str(golden["prompt"]), turn=False, first=True)
    assert prompt == ids[:prompt_tokens]
    routings = list(engine.prefill(prompt, lambda _: None))
    drawn = draw(engine, len(ids) - prompt_tokens)
    assert [token.id for token in drawn] == ids[prompt_tokens:]
    routings += [token.routing for token in drawn]
    np.testing.assert_array_equal(sets(routings), np.sort(golden["experts"], axis=-1))
    np.testing.assert_allclose(logits(routings), golden["router_logits"], atol=1e-3)


def test_pocket_says_what_it_is() -> None:
    engine = load(catalog.locate("pocket", "mlx"), options=EngineOptions(), progress=lambda _: None)
    model = engine.model
    assert (model.name, model.experts, model.experts_per_token, len(model.layers)) == ("pocket", 8, 2, 6)
    assert (model.context_length, model.trained_length) == (2048, 2048)
    assert model.bytes == model.parameters * 2
    assert model.bytes == model.non_expert_bytes + 8 * sum(model.expert_bytes)
    assert engine.warnings == []
