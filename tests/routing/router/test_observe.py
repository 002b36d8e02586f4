from __future__ import annotations

import math
from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_watch.routing.arrays import ABSENT
from moe_watch.routing.router import gates
from moe_watch.routing.router.gates import softmax
from moe_watch.routing.router.observe import effective_experts, normalised_entropy, observe, router_margin

LOGITS = np.log(np.array([[[0.1, 0.4, 0.2, 0.3]]]))
"""Return one token in one layer: the probabilities are the numbers inside the logarithm."""


def test_experts_come_sorted_by_probability_whatever_the_engine_gave():
    assert observe(LOGITS, np.array([[[3, 1]]]), "top_k_softmax").experts.tolist() == [[[1, 3]]]
    assert observe(LOGITS, np.array([[[1, 3]]]), "top_k_softmax").experts.tolist() == [[[1, 3]]]


def test_ties_are_ordered_by_id():
    assert observe(np.zeros((1, 1, 4)), np.array([[[3, 1, 2]]]), "softmax_top_k").experts.tolist() == [[[1, 2, 3]]]


def test_the_set_is_the_models_own_even_where_it_is_not_the_likeliest():
    assert observe(LOGITS, np.array([[[0, 2]]]), "top_k_softmax").experts.tolist() == [[[2, 0]]]


@pytest.mark.parametrize(
    ("gate", "weights"),
    [("top_k_softmax", [5714, 4286]), ("softmax_top_k_renormalised", [5714, 4286]), ("softmax_top_k", [4000, 3000])],
)
def test_weights_are_what_the_gate_applies(gate, weights):
    assert observe(LOGITS, np.array([[[1, 3]]]), gate).weights.tolist() == [[weights]]


def test_entropy_and_margin_by_hand():
    seen = observe(LOGITS, np.array([[[1, 3]]]), "top_k_softmax")
    entropy = -(0.1 * math.log(0.1) + 0.4 * math.log(0.4) + 0.2 * math.log(0.2) + 0.3 * math.log(0.3)) / math.log(4)
    assert seen.entropy.tolist() == [[round(entropy * 1e4)]]
    assert seen.margin.tolist() == [[1000]]


def test_an_unknown_gate_leaves_out_what_would_be_a_guess():
    seen = observe(LOGITS, np.array([[[3, 1]]]), "sparsemixer")
    assert (seen.weights, seen.entropy, seen.margin) == (None, None, None)
    assert seen.experts.tolist() == [[[1, 3]]], "by id, since nothing says which is likelier"


def test_rows_that_were_not_computed_stay_absent():
    logits = np.concatenate([LOGITS, np.full((1, 1, 4), np.nan)], axis=1)
    seen = observe(logits, np.array([[[1, 3], [ABSENT, ABSENT]]]), "top_k_softmax")
    assert seen.experts[0, 1].tolist() == [ABSENT, ABSENT]
    assert seen.weights[0, 1].tolist() == [ABSENT, ABSENT]
    assert seen.entropy.tolist()[0][1] == ABSENT
    assert seen.margin.tolist()[0][1] == ABSENT


def test_entropy_is_one_when_uniform_and_zero_when_certain():
    assert normalised_entropy(np.full(7, 1 / 7)) == pytest.approx(1.0)
    assert normalised_entropy(np.array([1.0, 0.0, 0.0])) == 0.0


def test_effective_experts_runs_from_one_to_all():
    assert effective_experts(1.0, 60) == pytest.approx(60)
    assert effective_experts(0.0, 60) == 1


@given(st.lists(st.floats(-30, 30), min_size=2, max_size=600))
def test_quantities_stay_in_their_ranges(values):
    probabilities = softmax(np.array(values))
    assert probabilities.sum() == pytest.approx(1)
    assert -1e-12 <= normalised_entropy(probabilities) <= 1 + 1e-12
    assert 0 <= router_margin(probabilities) <= 1


@given(st.sampled_from(["softmax_top_k", "sigmoid_top_k×2.5", "softmax_top_k_renormalised"]), st.integers(0, 2**32 - 1))
def test_scores_say_what_their_logits_say(gate, seed):
    logits = np.random.default_rng(seed).normal(0, 3, (3, 2, 8))
    experts = np.argsort(logits, axis=-1)[..., -2:]
    experts[1, 0] = ABSENT
    scored = gates.scores(gates.parse(gate), logits)
    from_logits, from_scores = observe(logits, experts, gate), observe(None, experts, gate, scored=scored)
    for one, other in zip(astuple(from_logits), astuple(from_scores), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_sparsemixer_needs_the_logits_themselves():
    with pytest.raises(ValueError, match="sparsemixer"):
        observe(None, np.array([[[1, 3]]]), "sparsemixer(0.01)", scored=softmax(LOGITS))


def test_nothing_computed_is_nothing_seen():
    seen = observe(np.full((2, 1, 4), np.nan), np.full((2, 1, 2), ABSENT), "top_k_softmax")
    assert all((values == ABSENT).all() for values in astuple(seen))


def everything(seen):
    """Return experts, weights, entropy and margin of one token in one layer."""
    return seen.experts[0, 0].tolist(), seen.weights[0, 0].tolist(), int(seen.entropy[0, 0]), int(seen.margin[0, 0])


EVERY_GATE = [str(gates.Gate(*parts)) for parts in gates.NAMES]
OVERFLOWS = [(gate, np.nan) for gate in EVERY_GATE] + [(gate, np.inf) for gate in EVERY_GATE if "sigmoid" not in gate]
"""A sigmoid of infinity is 1."""


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("gate", "overflowed"), OVERFLOWS)
def test_a_router_that_overflowed_has_no_numbers_and_never_zeros(gate, overflowed):
    experts, weights, entropy, margin = everything(observe(np.full((1, 1, 4), overflowed), np.array([[[3, 1]]]), gate))
    assert set(experts) == {1, 3}, "they were selected all the same"
    assert (weights, entropy, margin) == ([ABSENT] * 2, ABSENT, ABSENT)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("gate", EVERY_GATE)
def test_one_number_that_is_none_leaves_the_distribution_unknown(gate):
    _, _, entropy, margin = everything(observe(np.array([[[1.0, np.nan, 0.0, 2.0]]]), np.array([[[0, 3]]]), gate))
    assert (entropy, margin) == (ABSENT, ABSENT)


@pytest.mark.filterwarnings("error")
def test_an_expert_that_is_ruled_out_has_no_probability():
    logits = LOGITS.copy()
    logits[0, 0, 2] = -np.inf
    shares = np.array([0.1, 0.4, 0.3]) / 0.8
    entropy = -(shares * np.log(shares)).sum() / math.log(4)
    assert everything(observe(logits, np.array([[[3, 1]]]), "softmax_top_k")) == (
        [1, 3],
        [5000, 3750],
        round(entropy * 1e4),
        1250,
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("gate", EVERY_GATE)
def test_a_single_expert_is_no_choice(gate):
    """There is no uncertainty, and no second expert."""
    experts, weights, entropy, margin = everything(observe(np.array([[[0.7]]]), np.array([[[0]]]), gate))
    assert (experts, entropy, margin) == ([0], ABSENT, ABSENT)
    assert weights[0] > 0


@pytest.mark.parametrize("gate", ["softmax_top_k", "softmax_top_k_renormalised", "top_k_softmax"])
def test_all_experts_may_be_selected(gate):
    assert everything(observe(LOGITS, np.array([[[0, 1, 2, 3]]]), gate))[:2] == ([1, 3, 2, 0], [4000, 3000, 2000, 1000])


def test_equal_logits_are_uncertain_and_undecided():
    assert everything(observe(np.full((1, 1, 4), -7.0), np.array([[[2, 0]]]), "softmax_top_k")) == (
        [0, 2],
        [2500, 2500],
        10_000,
        0,
    )


def test_what_cannot_be_a_weight_is_absent():
    """An expert's factor may have any value; a file has no negative weight, and a weight of -1 unit would mean null."""
    seen = observe(LOGITS, np.array([[[3, 1]]]), "top_k_softmax×per_expert", np.array([[[-0.0001, np.nan]]]))
    assert everything(seen)[:2] == ([1, 3], [ABSENT, ABSENT])


def test_no_tokens():
    seen = observe(np.zeros((0, 2, 4)), np.zeros((0, 2, 2), np.int64), "softmax_top_k")
    assert [each.shape for each in astuple(seen)] == [(0, 2, 2), (0, 2, 2), (0, 2), (0, 2)]
