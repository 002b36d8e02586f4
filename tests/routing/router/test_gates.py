from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_watch.routing.arrays import ABSENT
from moe_watch.routing.router import gates
from moe_watch.routing.router.gates import NAMES, UNKNOWN_GATE, Gate, Scores, Weighting, parse
from moe_watch.routing.router.observe import observe

LOGITS = np.array([[[0.0, 2.0, -1.0, 1.0]]])
"""Return one token in one layer."""
CHOSEN = np.array([[[1, 3]]])


@given(
    st.sampled_from(list(NAMES)),
    st.none() | st.floats(1e-3, 1e3).map(lambda scale: float(f"{scale:.6g}")),
    st.booleans(),
    st.floats(0, 1).map(lambda jitter: float(f"{jitter:.4g}")),
)
def test_every_name_is_read_back(parts, scale, on_input, jitter):
    gate = Gate(*parts, scale, on_input, jitter if parts[1] is Weighting.SPARSEMIXER else 0.0)
    assert parse(str(gate)) == gate


@pytest.mark.parametrize(
    ("name", "gate"),
    [
        ("top_k_softmax", Gate(Scores.SOFTMAX, Weighting.SOFTMAX_OF_SELECTED)),
        ("softmax_top_k", Gate(Scores.SOFTMAX, Weighting.AS_THEY_ARE)),
        ("softmax_top_k_renormalised", Gate(Scores.SOFTMAX, Weighting.RENORMALISED)),
        ("sigmoid_top_k_renormalised×2.5", Gate(Scores.SIGMOID, Weighting.RENORMALISED, 2.5)),
        (
            "sigmoid_top_k_renormalised(sum≥6.1035156e-05)×2.5",
            Gate(Scores.SIGMOID, Weighting.RENORMALISED, 2.5, smallest_sum=6.1035156e-05),
        ),
        (
            "sigmoid_top_k_renormalised(sum+1e-06)",
            Gate(Scores.SIGMOID, Weighting.RENORMALISED, added_to_sum=1e-6),
        ),
        ("sigmoid_top_k_on_input", Gate(Scores.SIGMOID, Weighting.AS_THEY_ARE, on_input=True)),
        ("sqrt_softplus_top_k×16", Gate(Scores.SQRT_SOFTPLUS, Weighting.AS_THEY_ARE, 16.0)),
        ("top_k_softmax×per_expert", Gate(Scores.SOFTMAX, Weighting.SOFTMAX_OF_SELECTED, None)),
        ("sparsemixer(0.01)", Gate(Scores.SOFTMAX, Weighting.SPARSEMIXER, jitter=0.01)),
    ],
)
def test_names_in_recordings_keep_their_meaning(name, gate):
    assert parse(name) == gate
    assert str(gate) == name


@pytest.mark.parametrize(
    "name",
    [
        *(UNKNOWN_GATE, "", "softmax", "top_k_sigmoid", "softmax_top_k×", "softmax_top_k×1", "softmax_top_k×2.50"),
        *("softmax_top_k×x", "softmax_top_k×1e", "softmax_top_k×nan", "softmax_top_k(0.1)", "softmax_top_k ×2"),
        *("softmax_top_k_renormalised(sum≥)", "softmax_top_k_renormalised(sum+x)", "softmax_top_k_renormalised(sum≥0)"),
        *("sparsemixer", "sigmoid_top_k×2_on_input", "softmax_top_k_renormalised_twice"),
    ],
)
def test_anything_else_stays_unknown(name):
    assert parse(name) is None
    seen = observe(LOGITS, np.array([[[3, 1]]]), name)
    assert (seen.experts.tolist(), seen.weights, seen.entropy, seen.margin) == ([[[1, 3]]], None, None, None)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def sqrt_softplus(x):
    return math.sqrt(math.log(1 + math.exp(x)))


@pytest.mark.parametrize(("name", "score"), [("sigmoid", sigmoid), ("sqrt_softplus", sqrt_softplus)])
def test_scores_that_do_not_sum_to_one_are_divided_by_their_sum(name, score):
    values = np.array([score(logit) for logit in (0.0, 2.0, -1.0, 1.0)])
    share = values / values.sum()
    seen = observe(LOGITS, CHOSEN, f"{name}_top_k")
    assert seen.weights.tolist() == [[[round(values[1] * 1e4), round(values[3] * 1e4)]]]
    assert seen.margin.tolist() == [[round((share[1] - share[3]) * 1e4)]]
    assert seen.entropy.tolist() == [[round(-(share * np.log(share)).sum() / math.log(4) * 1e4)]]
    renormalised = observe(LOGITS, CHOSEN, f"{name}_top_k_renormalised×2.5").weights
    assert renormalised.tolist() == [[[round(2.5e4 * values[i] / (values[1] + values[3])) for i in (1, 3)]]]


@pytest.mark.parametrize(
    ("name", "denominator"),
    [
        ("sigmoid_top_k_renormalised", lambda total: total),
        ("sigmoid_top_k_renormalised(sum≥6.1035156e-05)", lambda total: 2.0**-14),
        ("sigmoid_top_k_renormalised(sum+1e-06)", lambda total: total + 1e-6),
        ("sigmoid_top_k_renormalised(sum≥1e-12)", lambda total: total),
    ],
)
def test_the_sum_of_tiny_scores_is_kept_from_zero_as_the_engine_does(name, denominator):
    values = np.array([sigmoid(logit) for logit in (-12.0, -11.5)])
    seen = observe(np.array([[[-12.0, -11.5, -13.0]]]), np.array([[[1, 0]]]), name)
    expected = values / denominator(values.sum())
    assert seen.weights.tolist() == [[[round(1e4 * expected[1]), round(1e4 * expected[0])]]]


def test_weights_on_the_input_are_the_scores():
    seen = observe(LOGITS, np.array([[[1]]]), "sigmoid_top_k_on_input")
    assert seen.weights.tolist() == [[[round(sigmoid(2.0) * 1e4)]]]


def test_a_set_chosen_with_a_bias_has_the_weights_and_order_of_its_scores():
    seen = observe(LOGITS, np.array([[[2, 0]]]), "sigmoid_top_k")
    assert seen.experts.tolist() == [[[0, 2]]]
    assert seen.weights.tolist() == [[[5000, round(sigmoid(-1.0) * 1e4)]]]


def test_sparsemixer_weighs_each_expert_among_the_logits_near_it():
    """Twice 0.25 of the larger magnitude is near: 3 and 2 are near 4, so is 4 itself; then, 4 taken, 2 is near 3."""
    logits = np.array([[[4.0, 3.0, 2.0, -4.0]]])
    powers = np.exp(logits[0, 0])
    expected = [powers[0] / powers[:3].sum(), powers[1] / powers[1:3].sum()]
    seen = observe(logits, np.array([[[1, 0]]]), "sparsemixer(0.25)")
    assert seen.experts.tolist() == [[[0, 1]]]
    assert seen.weights.tolist() == [[[round(weight * 1e4) for weight in expected]]]


def test_applied_weights_follow_their_experts():
    seen = observe(LOGITS, np.array([[[3, 1]]]), "top_k_softmax×per_expert", np.array([[[0.25, 1.5]]]))
    assert seen.experts.tolist() == [[[1, 3]]]
    assert seen.weights.tolist() == [[[15000, 2500]]]


def test_weights_of_each_experts_own_scale_are_absent_unless_seen():
    seen = observe(LOGITS, CHOSEN, "top_k_softmax×per_expert")
    assert seen.weights is None
    assert seen.margin.tolist() == [[round(float(np.diff(np.sort(gates.softmax(LOGITS))[0, 0, -2:])[0]) * 1e4)]]


@pytest.mark.parametrize("name", [str(Gate(*parts)) for parts in NAMES])
def test_rows_that_were_not_computed_stay_absent(name):
    logits = np.concatenate([LOGITS, np.full((1, 1, 4), np.nan)], axis=1)
    experts = np.array([[[1, 3], [ABSENT, ABSENT]]])
    for applied in (None, np.array([[[0.7, 0.3], [np.nan, np.nan]]])):
        seen = observe(logits, experts, name, applied)
        assert seen.experts[0, 0].tolist() == [1, 3]
        absent = (seen.experts[0, 1].tolist(), seen.weights[0, 1].tolist(), seen.entropy[0, 1], seen.margin[0, 1])
        assert absent == ([ABSENT] * 2, [ABSENT] * 2, ABSENT, ABSENT)


@pytest.mark.parametrize("level", [-1e4, 1e4])
def test_a_softmax_depends_on_differences_only(level):
    shares = gates.softmax(np.array([level, level + math.log(3)]))
    assert shares.tolist() == pytest.approx([0.25, 0.75])


@given(st.sampled_from([str(Gate(*parts)) for parts in NAMES]), st.lists(st.floats(-60, 60), min_size=2, max_size=300))
def test_probabilities_are_a_distribution_in_the_order_of_the_logits(name, values):
    logits, gate = np.array(values), parse(name)
    shares = gates.probabilities(gates.scores(gate, logits))
    assert shares.sum() == pytest.approx(1)
    assert (shares >= 0).all()
    assert (np.diff(shares[np.argsort(logits)]) >= -1e-15).all()
