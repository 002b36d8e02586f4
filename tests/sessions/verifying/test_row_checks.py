"""Row checks: a row that a router can compute passes, and the first unit beyond that fails."""

from __future__ import annotations

import re

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_watch.routing.arrays import nullable
from moe_watch.routing.events import Header, Token
from moe_watch.routing.router.gates import NAMES, Gate, Weighting
from moe_watch.routing.router.observe import observe
from moe_watch.sessions.reading.token_arrays import TokenArrays, token_arrays
from moe_watch.sessions.verifying.row_checks import (
    EVERY_ROW,
    MOST_ROWS,
    entropy_against_margin,
    margin_against_weights,
    weight_sums,
)
from tests.sessions.kit import HEADER

GATES = [str(Gate(*parts, jitter=0.01 * (parts[1] is Weighting.SPARSEMIXER))) for parts in NAMES]


def header_of(gate: str, experts: int) -> Header:
    """A model of one layer that selects two experts, or the only one."""
    model = {"layers": [0], "experts": experts, "experts_per_token": min(2, experts), "gate": gate}
    return msgspec.structs.replace(HEADER, model=msgspec.structs.replace(HEADER.model, **model))


def arrays(logits: list[float], header: Header, **changes: list[int]) -> TokenArrays:
    """One token with these logits and its likeliest experts selected."""
    given_logits = np.array(logits)[None, None]
    selected = np.argsort(-given_logits, axis=-1, kind="stable")[..., : header.model.experts_per_token]
    seen = observe(given_logits, selected, header.model.gate)
    found = {
        "experts": nullable(seen.experts),
        "weights": None if seen.weights is None else nullable(seen.weights),
        "entropy": nullable(seen.entropy),
        "margin": nullable(seen.margin),
    }
    token = Token(i=0, t=0.0, phase="decode", source="generated", id=1, text="x", **(found | changes))
    return token_arrays([token], header)


def faulty(found: TokenArrays, header: Header) -> set[str]:
    """Names of the checks that do not hold."""
    checks = {name: check(found, header) for name, check in (EVERY_ROW | MOST_ROWS).items()}
    return {name for name, faults in checks.items() if faults is not None and faults.rows.any()}


@given(st.sampled_from(GATES), st.lists(st.floats(-20, 20), min_size=2, max_size=40))
def test_whatever_a_router_computes_is_fine(gate, logits):
    header = header_of(gate, len(logits))
    assert faulty(arrays(logits, header), header) == set()


@pytest.mark.parametrize("gate", GATES)
def test_a_single_expert_lacks_nothing(gate):
    header = header_of(gate, 1)
    assert faulty(arrays([0.7], header), header) == set()


def test_numbers_that_an_overflow_left_out_are_missed():
    header = header_of("softmax_top_k", 3)
    found = arrays([np.nan, 1.0, 2.0], header)
    assert faulty(found, header) == {"captured"}
    assert EVERY_ROW["captured"](found, header).words(0, 0) == "has no weights, which the header lists as captured"


@pytest.mark.parametrize(
    ("shares", "beyond"),
    [([0.6, 0.4, 1e-12, 1e-12], -1), ([0.4, 0.2, 0.2, 0.2], 1)],
    ids=["two alone: the least entropy", "one above equal others: the most"],
)
def test_entropy_ends_where_a_margin_lets_it(shares, beyond):
    """Two steps are the rounding of both numbers and the noise of float32."""
    header = header_of("softmax_top_k", 4)
    found = arrays(list(np.log(shares)), header)
    entropy, margin = (round(float(each[0, 0]) * 1e4) for each in (found.entropy, found.margin))
    assert margin == 2000
    fine = arrays(list(np.log(shares)), header, entropy=[entropy + beyond])
    assert not entropy_against_margin(fine, header).rows.any()
    wrong = arrays(list(np.log(shares)), header, entropy=[entropy + 5 * beyond])
    faults = entropy_against_margin(wrong, header)
    assert faults.rows.all()
    assert re.search(r"with margin 0\.2000, possible is 0\.\d{4} to [01]\.\d{4}$", faults.words(0, 0))


@pytest.mark.parametrize(("sums_to", "fine"), [(10_000, True), (10_002, True), (9_998, True), (10_003, False)])
def test_weights_sum_to_1_but_for_two_roundings_and_noise(sums_to, fine):
    header = header_of("softmax_top_k_renormalised×2", 3)
    half = arrays([0.0, 0.0, -9.0], header, weights=[10_000, sums_to])
    assert weight_sums(half, header).rows.any() != fine
    as_they_are = header_of("softmax_top_k", 3)
    less = arrays([0.0, 0.0, -9.0], as_they_are, weights=[4000, 3000])
    assert not weight_sums(less, as_they_are).rows.any(), "the others have the rest"


@pytest.mark.parametrize("sum_kept", ["(sum≥6.1035156e-05)", "(sum+1e-06)"])
def test_weights_whose_sum_is_kept_from_zero_may_sum_to_less(sum_kept):
    header = header_of(f"sigmoid_top_k_renormalised{sum_kept}×2", 3)
    less, more = (arrays([0.0, 0.0, -9.0], header, weights=[4000, last]) for last in (3000, 16_003))
    assert not weight_sums(less, header).rows.any()
    assert weight_sums(more, header).rows.all()
    plain = header_of("sigmoid_top_k_renormalised×2", 3)
    assert weight_sums(arrays([0.0, 0.0, -9.0], plain, weights=[4000, 3000]), plain).rows.all()


@pytest.mark.parametrize(("margin", "fine"), [(1000, True), (1003, True), (1004, False), (996, False)])
def test_a_margin_is_the_difference_of_probabilities_as_they_are(margin, fine):
    header = header_of("softmax_top_k", 3)
    found = arrays([0.0, 0.0, 0.0], header, weights=[4000, 3000], margin=[margin])
    assert margin_against_weights(found, header).rows.any() != fine


def test_a_margin_is_no_larger_than_the_difference_of_renormalised_weights():
    header = header_of("top_k_softmax", 3)
    for margin, fine in ((0, True), (1000, True), (1004, False)):
        found = arrays([0.0, 0.0, 0.0], header, weights=[5500, 4500], margin=[margin])
        assert margin_against_weights(found, header).rows.any() != fine
