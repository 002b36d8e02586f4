"""Profiles made from known usage."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moe_watch.routing.errors import UserError
from moe_watch.routing.experts.rankings import RANKINGS
from moe_watch.routing.experts.sums import ExpertSums
from moe_watch.sessions.experts.profile_maker import make_profile
from tests.sessions.experts.observed import COUNTS, EXPERTS, MODEL, K, block, usage


def test_the_quantities() -> None:
    found = make_profile(usage())
    assert found.activation_counts == {"1": (COUNTS[0] * 10).tolist(), "3": (COUNTS[1] * 10).tolist()}
    assert found.rows == {"1": 50, "3": 50}
    assert all(sum(found.activation_counts[name]) == rows * K for name, rows in found.rows.items())
    assert found.weight_mass == {"1": [25.0, 15.0, 10.0, 0.0], "3": [0.0, 20.0, 20.0, 10.0]}
    assert found.saliency == {"1": [0.5, 1.0, 1.5, None], "3": [None, 1.0, 1.5, 2.0]}
    assert found.saliency_mass == {"1": [25.0, 30.0, 30.0, 0.0], "3": [0.0, 40.0, 60.0, 40.0]}
    assert found.never_routed == {"1": [3], "3": [0]}
    assert found.router_entropy == {"1": pytest.approx(0.4), "3": pytest.approx(0.8)}
    assert (found.calibration_tokens, found.calibration_examples, found.num_hidden_layers) == (50, 10, 5)
    assert (found.num_experts, found.num_experts_per_tok) == (EXPERTS, K)
    assert found.unavailable == {}
    assert found.groups == []


def test_absent_quantities_have_their_reason() -> None:
    bare = ExpertSums(np.array([5, 5]), COUNTS)
    unknown = replace(MODEL, gate=None, fingerprint=None, hidden_layers=None)
    reasons = dict.fromkeys(("weight_mass", "router_entropy", "saliency", "saliency_mass"), "not recorded")
    found = make_profile(usage([bare], model=unknown, absent=reasons))
    lacking = {name for name in found.__struct_fields__ if getattr(found, name) is None}
    assert lacking - {"expert_ids"} == set(found.unavailable)
    assert "1 window cannot be resampled: 8 are needed" in found.unavailable["stability"]


def test_layers_with_different_numbers_of_experts_per_token() -> None:
    counts = np.array([[5, 0, 0, 0], [0, 4, 4, 2]])
    model = replace(MODEL, k=[1, 2])
    assert make_profile(usage([ExpertSums(np.array([5, 5]), counts)], model=model)).num_experts_per_tok == [1, 2]


def test_counts_that_are_not_rows_times_k_are_refused() -> None:
    broken = replace(block(), rows=np.array([5, 6]))
    with pytest.raises(UserError, match=r"counts of layer 3 sum to 10, not to rows × experts per token \(6 × 2\)"):
        make_profile(usage([broken]))


def test_stability_for_every_number_of_kept_experts() -> None:
    found = make_profile(usage()).stability
    assert found is not None
    assert found.keep == [1, 2, 3]
    assert found.chance == [0.25, 0.5, 0.75]
    assert tuple(found.within) == RANKINGS
    assert all(each.overlap == {"1": [1, 1, 1], "3": [1, 1, 1]} for each in found.within.values())
    assert (found.block, found.blocks, found.across, found.pairs) == ("window", 10, None, [])


def test_stability_for_one_number_of_kept_experts() -> None:
    found = make_profile(usage(), [2]).stability
    assert found is not None
    assert found.keep == [2]
    assert found.within["count"].same_set == {"1": [1.0], "3": [1.0]}


@pytest.mark.parametrize("keep", [0, EXPERTS + 1])
def test_an_impossible_number_of_kept_experts(keep: int) -> None:
    with pytest.raises(UserError, match=f"--keep is {keep}: use 1 to 4"):
        make_profile(usage(), [keep])


def test_groups_and_their_agreement() -> None:
    turned = replace(block(), counts=COUNTS[:, ::-1], weights=COUNTS[:, ::-1] * 0.5)
    found = make_profile(usage([block()] * 4, [block(2)] * 4, [turned] * 4))
    assert [(each.name, each.tokens) for each in found.groups] == [("group 0", 20), ("group 1", 40), ("group 2", 20)]
    assert found.groups[1].activation_counts["1"] == (COUNTS[0] * 8).tolist()
    stability = found.stability
    assert stability is not None
    assert stability.across is not None
    by_pair = {(each.a, each.b): each.correlation["count"] for each in stability.pairs}
    assert by_pair["group 0", "group 1"] == 1.0
    # Layer 1: the ranks 4, 3, 2, 1 and their reverse, ρ −1; layer 3: 1, 3.5, 3.5, 2 and 2, 3.5, 3.5, 1, ρ 7/9
    assert by_pair["group 0", "group 2"] == pytest.approx((-1 + 7 / 9) / 2, abs=1e-4)
    assert stability.across["count"].correlation["1"] == pytest.approx((1 - 1 - 1) / 3, abs=1e-4)
    shares = [1 / 3, 1 / 3, (1 + 2 / 3 + 2 / 3) / 3]
    assert stability.across["count"].overlap["1"] == pytest.approx(shares, abs=1e-4)


def test_a_layer_without_a_correlation_does_not_hide_the_others() -> None:
    """In the second group all experts of layer 3 have equal counts: there ρ is undefined."""
    equal = replace(block(2), counts=np.stack([COUNTS[0] * 2, np.full(EXPERTS, 5)]))
    found = make_profile(usage([block()] * 4, [equal] * 4, [block(3)] * 4)).stability
    assert found is not None
    assert found.across is not None
    assert [pair.correlation["count"] for pair in found.pairs] == [1.0, 1.0, 1.0]
    assert found.across["count"].correlation == {"1": 1.0, "3": 1.0}
    alone = make_profile(usage([block()] * 4, [equal] * 4)).stability
    assert alone is not None
    assert alone.across is not None
    assert alone.across["count"].correlation == {"1": 1.0, "3": None}


def test_sums_alone_are_not_resampled() -> None:
    found = make_profile(usage([block()], block=None))
    assert found.stability is None
    assert "only sums of counts" in found.unavailable["stability"]
    across = make_profile(usage([block()], [block()], block=None)).stability
    assert across is not None
    assert (across.within, across.block) == ({}, None)
    assert across.across is not None
