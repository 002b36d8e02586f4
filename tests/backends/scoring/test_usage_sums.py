"""Sums of routing, against `observe` and plain loops."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from moe_watch.backends.engine import RouterOutputs, ScoredBatch
from moe_watch.backends.scoring.usage_sums import UsageSum
from moe_watch.backends.scoring_messages import UsageSums
from moe_watch.backends.tap_rows import ScoredRouting
from moe_watch.routing.errors import UserError
from moe_watch.routing.header import ModelInfo
from moe_watch.routing.router.gates import UNKNOWN_GATE, parse, scores
from moe_watch.routing.router.observe import UNITS, observe

LAYERS, E, K, T = 3, 7, 2, 50
NO_LOGITS: Any = np.zeros((0, 0), np.float32)

GATES = [
    "top_k_softmax",
    "softmax_top_k",
    "softmax_top_k_renormalised×2.5",
    "sigmoid_top_k",
    "sigmoid_top_k_renormalised(sum+1e-06)",
    "sqrt_softplus_top_k_renormalised",
    "sparsemixer(0.01)",
]


def model(gate: str, k: int | list[int] = K) -> ModelInfo:
    return ModelInfo(name="m", architecture="m", layers=[0, 2, 5], experts=E, experts_per_token=k, gate=gate)


def drawn(k: list[int] | None = None, seed: int = 0) -> tuple[list[Any], list[Any]]:
    """Experts [T, k] in any order, and logits [T, E], per layer."""
    rng = np.random.default_rng(seed)
    logits = [rng.standard_normal((T, E)).astype(np.float32) for _ in range(LAYERS)]
    chosen = k or [K] * LAYERS
    experts = [
        rng.permuted(np.argsort(-rows, axis=1)[:, :many], axis=1).astype(np.int32)
        for rows, many in zip(logits, chosen, strict=True)
    ]
    return experts, logits


def sums(info: ModelInfo, *batches: ScoredBatch, saliency: bool = False) -> UsageSums:
    total = UsageSum(info, saliency=saliency)
    for batch in batches:
        total.add(batch)
    return msgspec.msgpack.decode(msgspec.msgpack.encode(total.result()), type=UsageSums)


def batch(experts: list[Any], logits: list[Any], at: slice = slice(None)) -> ScoredBatch:
    rows = [None if layer is None else layer[at] for layer in logits]
    return ScoredBatch(NO_LOGITS, RouterOutputs(len(experts[0][at]), [layer[at] for layer in experts], rows))


def looped(experts: list[Any], values: list[Any]) -> list[list[float]]:
    found = np.zeros((LAYERS, E))
    for layer in range(LAYERS):
        for row, of_row in zip(experts[layer], values[layer], strict=True):
            for expert, value in zip(row, of_row, strict=True):
                found[layer, expert] += value
    return found.tolist()


@pytest.mark.parametrize("gate", GATES)
def test_sums_are_those_of_the_recorded_observation(gate: str) -> None:
    experts, logits = drawn()
    found = sums(model(gate), batch(experts, logits))
    seen = observe(np.stack(logits, 1), np.stack(experts, 1).astype(np.int64), gate)
    assert seen.weights is not None
    assert seen.entropy is not None
    layered = [seen.experts[:, layer] for layer in range(LAYERS)]
    np.testing.assert_array_equal(found.counts, looped(layered, [np.ones((T, K))] * LAYERS))
    assert found.rows == [T] * LAYERS
    weights = looped(layered, [seen.weights[:, layer] * UNITS.weights for layer in range(LAYERS)])
    np.testing.assert_allclose(found.weights, weights, rtol=0, atol=T * UNITS.weights / 2)
    np.testing.assert_allclose(found.entropy, seen.entropy.sum(0) * UNITS.entropy, rtol=0, atol=T * UNITS.entropy / 2)


@pytest.mark.parametrize("gate", GATES[:6])
def test_scores_give_the_same_sums_as_logits(gate: str) -> None:
    experts, logits = drawn()
    known = parse(gate)
    assert known is not None
    scored = [scores(known, rows) for rows in logits]
    from_scores = ScoredBatch(NO_LOGITS, ScoredRouting(T, [*experts], [*scored], never))
    found, expected = sums(model(gate), from_scores), sums(model(gate), batch(experts, logits))
    assert found.counts == expected.counts
    np.testing.assert_allclose(found.weights, expected.weights, rtol=1e-12)
    np.testing.assert_allclose(found.entropy, expected.entropy, rtol=1e-12)


def never(_: Any) -> Any:
    raise AssertionError("logits were computed from scores, and only scores are needed")


def test_batches_add_up() -> None:
    experts, logits = drawn()
    info = model("top_k_softmax")
    parts = [batch(experts, logits, at) for at in (slice(0, 1), slice(1, 30), slice(30, T))]
    found, expected = sums(info, *parts), sums(info, batch(experts, logits))
    assert (found.counts, found.rows) == (expected.counts, expected.rows)
    np.testing.assert_allclose(found.weights, expected.weights, rtol=1e-12)
    np.testing.assert_allclose(found.entropy, expected.entropy, rtol=1e-12)


def test_layers_may_select_different_numbers_of_experts() -> None:
    k = [1, 3, 2]
    experts, logits = drawn(k)
    found = sums(model("softmax_top_k", k), batch(experts, logits))
    assert np.sum(found.counts, axis=1).tolist() == [T * many for many in k]
    assert found.counts == looped(experts, [np.ones(rows.shape) for rows in experts])


def test_applied_weights_are_used_as_they_are() -> None:
    experts, logits = drawn()
    applied = [np.random.default_rng(layer).random((T, K)).astype(np.float32) for layer in range(LAYERS)]
    routing = RouterOutputs(T, [*experts], [*logits], [*applied])
    for gate in ("top_k_softmax", "softmax_top_k×per_expert"):
        found = sums(model(gate), ScoredBatch(NO_LOGITS, routing))
        np.testing.assert_allclose(found.weights, looped(experts, applied), rtol=1e-12)


def test_norms_are_summed_by_expert() -> None:
    experts, logits = drawn()
    norms = [np.random.default_rng(layer).random((T, K)).astype(np.float32) for layer in range(LAYERS)]
    given = ScoredBatch(NO_LOGITS, RouterOutputs(T, [*experts], [*logits]), [*norms])
    found = sums(model("top_k_softmax"), given, saliency=True)
    np.testing.assert_allclose(found.norms, looped(experts, norms), rtol=1e-12)
    assert sums(model("top_k_softmax"), given).norms is None


def test_what_the_engine_does_not_give_is_absent() -> None:
    experts, logits = drawn()
    unknown = sums(model(UNKNOWN_GATE), batch(experts, [None] * LAYERS))
    assert (unknown.weights, unknown.entropy) == (None, None)
    assert unknown.counts == looped(experts, [np.ones((T, K))] * LAYERS)
    separate = sums(model("softmax_top_k×per_expert"), batch(experts, logits))
    assert separate.weights is None
    assert separate.entropy is not None
    partly = sums(model("top_k_softmax"), batch(experts, logits), batch(experts, [logits[0], None, logits[2]]))
    assert (partly.weights, partly.entropy) == (None, None)


@pytest.mark.parametrize("wrong", [-1, E])
def test_a_row_that_was_not_computed_is_an_error(wrong: int) -> None:
    """An expert beyond the last one would count for the next layer."""
    experts, logits = drawn()
    experts[1][T // 2] = wrong
    with pytest.raises(RuntimeError, match="did not compute every row"):
        sums(model("top_k_softmax"), batch(experts, logits))


def test_a_router_without_numbers_is_refused() -> None:
    experts, logits = drawn()
    logits[1][3, 0] = np.nan
    with pytest.raises(UserError, match="the router of layer 2 outputs NaN"):
        sums(model("top_k_softmax"), batch(experts, logits))


def test_masked_experts_have_no_share_of_the_entropy() -> None:
    experts, logits = drawn()
    for rows, chosen in zip(logits, experts, strict=True):
        rows[:, 0] = -np.inf
        chosen[:] = np.argsort(-rows, axis=1)[:, :K]
    found = sums(model("top_k_softmax"), batch(experts, logits))
    seen = observe(np.stack(logits, 1), np.stack(experts, 1).astype(np.int64), "top_k_softmax")
    assert seen.entropy is not None
    np.testing.assert_allclose(found.entropy, seen.entropy.sum(0) * UNITS.entropy, rtol=0, atol=T * UNITS.entropy / 2)
    assert [row[0] for row in found.counts] == [0] * LAYERS


def test_a_layer_without_rows_or_norms_is_an_error() -> None:
    experts, logits = drawn()
    routing = RouterOutputs(T, [experts[0], None, experts[2]], [*logits])
    with pytest.raises(RuntimeError, match="experts of every layer"):
        sums(model("top_k_softmax"), ScoredBatch(NO_LOGITS, routing))
    whole = RouterOutputs(T, [*experts], [*logits])
    for norms in ([], [np.ones((T, K)), None, np.ones((T, K))]):
        with pytest.raises(RuntimeError, match="norms"):
            sums(model("top_k_softmax"), ScoredBatch(NO_LOGITS, whole, norms), saliency=True)


def test_a_dense_model_has_no_sums() -> None:
    dense = ModelInfo(name="d", architecture="d", layers=[], experts=0, experts_per_token=0, gate="none")
    given = ScoredBatch(NO_LOGITS, RouterOutputs(T, [], []))
    assert sums(dense, given) == UsageSums(rows=[], counts=[])
