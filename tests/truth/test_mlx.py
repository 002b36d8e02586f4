"""MLX, seen through the tap, against `transformers`: the same sets, weights and probabilities, in the same layers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.truth.expected import CORRECTED, GATES
from tests.truth.mlx_comparison import MODELS, EngineRun, Golden, compare, probabilities, read_golden, run_model, scale

UNIT = 1e-4
FILES = ("config.json", "model.safetensors", "golden.npz")


@pytest.fixture(scope="module")
def golden(request: pytest.FixtureRequest) -> Golden:
    return read_golden(request.param)


@pytest.fixture(scope="module")
def seen(request: pytest.FixtureRequest) -> EngineRun:
    return run_model(request.param, read_golden(request.param).ids)


def both(names: list[str]) -> pytest.MarkDecorator:
    """Run a test for each model, with what was seen and what is expected."""
    return pytest.mark.parametrize(("seen", "golden"), [(name, name) for name in names], indirect=True, ids=names)


def test_every_model_of_the_suite_is_tested() -> None:
    assert {folder.name for folder in MODELS.iterdir()} == set(GATES)
    assert set(CORRECTED) < set(GATES)


@pytest.mark.parametrize("name", GATES)
def test_the_files_are_small_and_whole(name: str) -> None:
    golden, sizes = read_golden(name), [(MODELS / name / file).stat().st_size for file in FILES]
    tokens, layers, experts = golden.router_logits.shape
    assert tokens == len(golden.ids) == len(golden.output_logits) == 40
    assert golden.experts.shape == golden.weights.shape == (tokens, layers, golden.experts.shape[-1])
    assert layers == len(golden.layers)
    assert len(np.unique(golden.experts)) > min(experts, 60) // 2, "a router that always selects the same shows nothing"
    assert sum(sizes) < 600_000


@pytest.mark.parametrize("seen", GATES, indirect=True, ids=list(GATES))
def test_the_gate_is_named(seen: EngineRun, request: pytest.FixtureRequest) -> None:
    assert seen.gate == GATES[request.node.callspec.id]


@both(list(GATES))
def test_layers_are_numbered_as_in_the_model(seen: EngineRun, golden: Golden) -> None:
    assert seen.layers == golden.layers.tolist()


@both(list(GATES))
def test_mlx_routes_as_transformers(seen: EngineRun, golden: Golden) -> None:
    comparison = compare(seen, golden)
    assert comparison.rows == len(golden.ids) * len(golden.layers)
    assert comparison.unequal == []
    assert comparison.weights <= 1e-4
    assert comparison.probabilities <= 1e-3
    assert comparison.output_logits <= 1e-3


@both([name for name in GATES if "per_expert" not in GATES[name]])
def test_weights_follow_from_the_logits(seen: EngineRun, golden: Golden) -> None:
    """The gate is the right one: with what it says, logits and sets give the weights that were applied."""
    computed = seen.computed()
    expected = np.take_along_axis(golden.all_weights(), computed.experts, axis=-1)
    np.testing.assert_allclose(computed.weights * UNIT, expected, rtol=0, atol=1e-4 * scale(seen.gate))


@both(list(GATES))
def test_order_entropy_and_margin_are_those_of_the_probabilities(seen: EngineRun, golden: Golden) -> None:
    observation, expected = seen.observation(), probabilities(seen.gate, golden.router_logits)
    assert (np.diff(np.take_along_axis(expected, observation.experts, axis=-1)) <= 1e-6).all()
    two_best = np.sort(expected, axis=-1)[..., -2:]
    np.testing.assert_allclose(observation.margin * UNIT, two_best[..., 1] - two_best[..., 0], rtol=0, atol=1e-3)
    logarithms = np.log(expected, out=np.zeros_like(expected), where=expected > 0)
    entropy = -(expected * logarithms).sum(-1) / np.log(expected.shape[-1])
    np.testing.assert_allclose(observation.entropy * UNIT, entropy, rtol=0, atol=1e-3)


@both(list(GATES))
def test_token_by_token_is_the_sequence_at_once(
    seen: EngineRun, golden: Golden, request: pytest.FixtureRequest
) -> None:
    stepwise = run_model(request.node.callspec.id, golden.ids, stepwise=True)
    np.testing.assert_array_equal(np.sort(stepwise.experts), np.sort(seen.experts))
    np.testing.assert_allclose(stepwise.output_logits, seen.output_logits, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", CORRECTED)
def test_what_is_added_to_a_model_is_what_mlx_lm_lacks(name: str) -> None:
    """Without it the output is another one. The first token has met no difference before its first router."""
    golden = read_golden(name)
    seen = run_model(name, golden.ids, corrected=False)
    assert np.abs(seen.output_logits - golden.output_logits).max() > 0.1
    np.testing.assert_allclose(seen.logits[0, 0], golden.router_logits[0, 0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("wrong", ["gate", "layer", "token"])
def test_the_comparison_notices(wrong: str) -> None:
    golden = read_golden("deepseek_v2")
    seen = run_model("deepseek_v2", golden.ids)
    assert compare(seen, golden).unequal == []
    assert seen.applied is not None
    if wrong == "gate":
        found = compare(replace(seen, gate="softmax_top_k_renormalised×16", applied=None), golden)
        assert found.weights > 0.1
        return
    axis = {"token": 0, "layer": 1}[wrong]
    moved = {name: np.roll(getattr(seen, name), 1, axis) for name in ("logits", "experts", "applied")}
    found = compare(replace(seen, **moved), golden)
    assert len(found.unequal) > found.rows // 2
    assert min(found.weights, found.probabilities) > 0.1
