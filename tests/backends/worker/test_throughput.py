"""Measuring leaves the engine as it was, and `bare` runs without a hook."""

from __future__ import annotations

from contextlib import closing
from itertools import islice
from typing import get_args

import numpy as np
import pytest

from moe_watch.backends.engine import Engine, SampledToken
from moe_watch.backends.model_files import catalog
from moe_watch.backends.protocol import EngineOptions, Measure, MeasuredVariant
from moe_watch.backends.worker.throughput import Measurements
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Sampling
from tests.backends.scripted import Session, start

pytestmark = pytest.mark.model

ENGINES = [
    pytest.param(name, marks=pytest.mark.skipif(bool(catalog.missing_packages(entry)), reason=f"no {name} here"))
    for name, entry in catalog.ENGINES.items()
]
VARIANTS = get_args(MeasuredVariant)
EVERYTHING = [(variant, phase) for variant in VARIANTS for phase in ("decode", "prefill")]


@pytest.fixture(scope="module", params=ENGINES)
def engine(request) -> Engine:
    location = catalog.locate("pocket", request.param)
    options = EngineOptions(threads=1) if request.param == "llama.cpp" else EngineOptions()
    return catalog.load_engine(request.param, location, options=options, progress=lambda _: None)


def draw(engine: Engine, number: int = 6) -> list[SampledToken]:
    engine.reset()
    engine.configure(Sampling(temperature=0.0, seed=0), reseed=True)
    for _ in engine.prefill(engine.encode("def f(x):", turn=False, first=True), lambda _: None):
        pass
    drawn = [engine.draw() for _ in range(number)]
    engine.draw(last=True)
    return drawn


@pytest.mark.parametrize(("variant", "phase"), EVERYTHING)
def test_the_engine_observes_the_same_afterwards(engine, variant, phase):
    before = draw(engine)
    assert Measurements(engine).measure(Measure(variant=variant, phase=phase, prompt="import os", tokens=12)) > 0
    after = draw(engine)
    assert [each.id for each in after] == [each.id for each in before]
    for old, new in zip(before, after, strict=True):
        for one, other in zip(old.routing.experts, new.routing.experts, strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_prompt_is_cut_to_the_context_and_too_many_tokens_are_refused(engine, monkeypatch):
    monkeypatch.setattr(engine, "context_length", 20)
    taken = Measurements(engine)
    assert taken.measure(Measure(variant="tap on", phase="prefill", prompt="def f(x):", tokens=256)) > 0
    assert engine.position == 19
    with pytest.raises(UserError, match="the context of pocket holds 20: measure fewer tokens"):
        taken.measure(Measure(variant="tap on", phase="decode", prompt="def f(x):", tokens=20))


def test_nothing_is_measured_during_a_run(engine):
    asked = Measure(variant="tap on", phase="decode", prompt="def f(x):", tokens=5)
    session = Session(engine).run(start(tokens=8), (10, asked))
    assert session.refusals == ["nothing was measured: a run is in progress"]
    assert len(session.generated) == 8


def test_bare_generates_without_opening_a_frame():
    if catalog.missing_packages(catalog.ENGINES["mlx"]):
        pytest.skip("no mlx here")
    from moe_watch.backends.mlx.baseline_loop import MlxBare
    from moe_watch.backends.mlx.tap import RouterTap
    from tests.backends import tiny

    model = tiny.random_model(tiny.MIXTRAL)
    plain = {path: type(module) for path, module in model.named_modules()}
    tap = RouterTap(model)
    hooked = {path: type(module) for path, module in model.named_modules()}
    assert hooked != plain
    frame = tap.frame
    with closing(MlxBare(model, tap).decode([1, 2, 3])) as tokens:
        assert len(list(islice(tokens, 5))) == 5
        assert {path: type(module) for path, module in model.named_modules()} == plain
    assert tap.frame is frame
    model(tiny_ids())
    assert all(experts is not None for experts in tap.frame.experts)


def tiny_ids():
    import mlx.core as mx

    return mx.array([[1, 2]])
