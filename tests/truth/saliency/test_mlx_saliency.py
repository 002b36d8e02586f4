"""Saliency on MLX, through the scorer of the engine, against `transformers` in float32."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from moe_watch.backends.engine import Engine, Unobserved
from moe_watch.routing.errors import UserError
from moe_watch.routing.router.masks import ExpertMask
from tests.backends.conftest import load_folder
from tests.truth.expected import GATES
from tests.truth.masked.reference import MASKED, read_reference
from tests.truth.mlx_comparison import Array, Golden, read_golden, spread
from tests.truth.saliency.reference import read_norms, saliency
from tests.truth.test_engine import as_folder

SALIENCY = 1e-5
"""Largest relative difference of the mean norm of an expert."""
ROUNDING = {"llama4_text": 3.0}
"""Factor of this bound for a model whose router logits are already 4e-5 from the reference: rounding before it."""

NOT_READ = ("dbrx",)
"""Models whose experts mlx-lm evaluates one at a time."""
READ = [name for name in GATES if name not in NOT_READ]


@pytest.fixture(scope="module")
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return load_folder(as_folder(request.param, tmp_path_factory.mktemp("models") / request.param))


def scored(engine: Engine, golden: Golden, mask: ExpertMask | None = None) -> tuple[Array, Array, Array]:
    """Return logits [T, V], and experts and norms [T, L, k]."""
    scorer = engine.scorer(len(golden.ids), usage=True, saliency=True)
    scorer.mask(mask or ExpertMask())
    [batch] = list(scorer.evaluate(golden.ids.tolist()))
    scorer.close()
    assert {norms.dtype for norms in batch.norms if norms is not None} == {np.dtype(np.float32)}
    return np.array(batch.logits), np.stack(batch.routing.experts, axis=1), np.stack(batch.norms, axis=1)


def apart(name: str, found: Array) -> float:
    """Return the largest relative difference of norms [T, L, E] from the reference, by their mean per expert."""
    mine, expected = saliency(found), saliency(read_norms(name))
    assert (np.isnan(mine) == np.isnan(expected)).all()
    return float(np.nanmax(np.abs(mine / expected - 1)))


@pytest.mark.parametrize(("engine", "name"), [(name, name) for name in READ], indirect=["engine"], ids=READ)
def test_saliency_is_that_of_transformers(engine: Engine, name: str) -> None:
    golden = read_golden(name)
    logits, experts, norms = scored(engine, golden)
    count = golden.router_logits.shape[-1]
    assert apart(name, spread(experts, norms, count)) <= SALIENCY * ROUNDING.get(name, 1.0)
    np.testing.assert_allclose(logits, golden.output_logits, rtol=0, atol=1e-3)
    np.testing.assert_array_equal(np.sort(experts), np.sort(golden.experts))


@pytest.mark.parametrize("engine", NOT_READ, indirect=True)
def test_norms_that_cannot_be_read_are_refused(engine: Engine) -> None:
    with pytest.raises(UserError, match=r"saliency of dbrx cannot be measured: .* one at a time"):
        engine.scorer(40, usage=True, saliency=True)
    golden = read_golden("dbrx")
    [batch] = list(engine.scorer(40, usage=True, saliency=False).evaluate(golden.ids.tolist()))
    np.testing.assert_allclose(batch.logits, golden.output_logits, rtol=0, atol=1e-3)


@pytest.mark.parametrize(("engine", "name"), [("mixtral", "mixtral"), ("gpt_oss", "gpt_oss")], indirect=["engine"])
def test_the_comparison_notices_another_weight(engine: Engine, name: str) -> None:
    golden = read_golden(name)
    _, experts, norms = scored(engine, golden)
    found = spread(experts, norms, golden.router_logits.shape[-1])
    assert apart(name, found) <= SALIENCY
    found[:, 0, 1] *= 1.0001
    assert apart(name, found) > SALIENCY


@pytest.mark.parametrize(("engine", "name"), [(n, n) for n in ("olmoe", "glm4_moe")], indirect=["engine"])
def test_a_masked_scorer_is_the_masked_model(engine: Engine, name: str) -> None:
    assert name in MASKED
    reference = read_reference(name, "masked.npz")
    golden = reference.golden
    logits, experts, _ = scored(engine, golden, reference.mask)
    np.testing.assert_array_equal(np.sort(experts), np.sort(golden.experts))
    np.testing.assert_allclose(logits[golden.kept], golden.output_logits, rtol=0, atol=1e-4)
    whole, _, _ = scored(engine, golden)
    np.testing.assert_allclose(whole, read_golden(name).output_logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("engine", ["mixtral"], indirect=True)
def test_without_usage_there_is_no_routing(engine: Engine) -> None:
    golden = read_golden("mixtral")
    [batch] = list(engine.scorer(40, usage=False, saliency=False).evaluate(golden.ids.tolist()))
    assert isinstance(batch.routing, Unobserved)
    assert batch.norms == []
    assert (batch.logits.shape, batch.logits.dtype) == (golden.output_logits.shape, np.float32)


def test_every_model_has_a_reference(tmp_path: pathlib.Path) -> None:
    for name in GATES:
        golden = read_golden(name)
        selected = spread(golden.experts, np.ones(golden.experts.shape), golden.router_logits.shape[-1])
        np.testing.assert_array_equal(read_norms(name) > 0, selected > 0)
