"""Masks: their notation, the check, and its promise that no router selects a masked expert."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_watch.routing.errors import UserError
from moe_watch.routing.header import ModelInfo
from moe_watch.routing.router.masks import (
    ExpertGroups,
    ExpertMask,
    check_mask,
    parse_mask,
    unused_has_no_effect,
)


def model(layers=(0, 1), experts=8, k=2, gate="softmax_top_k_renormalised"):
    return ModelInfo(
        name="made", architecture="made", layers=list(layers), experts=experts, experts_per_token=k, gate=gate
    )


@pytest.mark.parametrize(
    ("text", "rows"),
    [("0:3", [(0, [3])]), ("5:1,0:3, 5:0", [(0, [3]), (5, [0, 1])]), ("1:2,1:2", [(1, [2])])],
)
def test_the_notation_is_read_and_written(text, rows):
    mask = parse_mask(text)
    assert mask.rows == rows
    assert parse_mask(str(mask)) == mask == ExpertMask.from_rows(rows)
    assert len(mask) == sum(len(experts) for _, experts in rows)


@pytest.mark.parametrize("text", ["", "3", "0:", ":1", "0:1,", "a:b", "-1:0", "0:1;2:3", "0:1.5", "0:" + "9" * 10])
def test_other_text_is_refused(text):
    with pytest.raises(UserError, match="give LAYER:EXPERT pairs"):
        parse_mask(text)


def test_toggling_switches_off_first_and_on_only_if_all_are_off():
    mask = parse_mask("0:1")
    both = mask.toggled([(0, 1), (0, 2)])
    assert str(both) == "0:1,0:2"
    assert not both.toggled([(0, 1), (0, 2)])
    assert str(both.toggled([(0, 2)])) == "0:1"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("2:0", "made has no MoE layer 2: MoE layers: 0 to 1"),
        ("0:8", "layer 0 of made has no expert 8: experts are 0 to 7"),
        ("1:0,1:1,1:2,1:3,1:4,1:5,1:6", "layer 1 would keep 1 expert, and selects 2 per token: switch off 6 of its 8"),
    ],
)
def test_masks_that_leave_no_choice_or_name_nothing_are_refused(text, said):
    with pytest.raises(UserError, match=said):
        check_mask(parse_mask(text), model(), None)
    check_mask(parse_mask("1:0,1:1,1:2,1:3,1:4,1:5"), model(), None)


def test_a_dense_model_has_no_layer_to_mask():
    with pytest.raises(UserError, match="MoE layers: none: it is a dense model"):
        check_mask(parse_mask("0:0"), model(layers=(), experts=0, k=0), None)


def test_experts_per_token_by_layer_count_for_their_layer():
    by_layer = model(k=[2, 7])
    check_mask(parse_mask("0:0,0:1,1:0"), by_layer, None)
    with pytest.raises(UserError, match="layer 1 would keep 6 experts, and selects 7"):
        check_mask(parse_mask("1:0,1:1"), by_layer, None)


def selected(scores, masked, k, groups):
    """Select as engines do: groups by the sum of their two best scores, then the best experts in them."""
    scores = scores.copy()
    scores[list(masked)] = -np.inf
    by_group = scores.reshape(groups.count, -1)
    best = np.sort(by_group, axis=1)[:, -2:].sum(1)
    chosen = np.argsort(-best, kind="stable")[: groups.used]
    allowed = np.full_like(by_group, -np.inf)
    allowed[chosen] = by_group[chosen]
    flat = allowed.ravel()
    top = np.argsort(-flat, kind="stable")[:k]
    return [int(each) for each in top if np.isfinite(flat[each])]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_an_accepted_mask_always_leaves_enough_experts_in_the_groups_that_win(data):
    groups = ExpertGroups(count=data.draw(st.sampled_from([2, 4])), used=data.draw(st.integers(1, 2)))
    k = data.draw(st.integers(1, 4))
    masked = frozenset(data.draw(st.sets(st.integers(0, 15), max_size=10)))
    made = model(layers=(0,), experts=16, k=k)
    try:
        check_mask(ExpertMask({0: masked} if masked else {}), made, groups)
    except UserError:
        return
    if masked:
        for seed in range(20):
            found = selected(np.random.default_rng(seed).normal(size=16), masked, k, groups)
            assert len(found) == k
            assert masked.isdisjoint(found)


def test_a_refused_mask_of_groups_could_run_out_of_experts():
    groups, made = ExpertGroups(count=2, used=1), model(layers=(0,), experts=8, k=3)
    refused = 0
    for masked in [each for size in (1, 2) for each in combinations(range(8), size)]:
        try:
            check_mask(ExpertMask.of((0, expert) for expert in masked), made, groups)
        except UserError:
            refused += 1
            short = min(range(2), key=lambda group: sum(expert // 4 != group for expert in masked))
            left = [expert for expert in range(short * 4, short * 4 + 4) if expert not in masked]
            if len(left) >= 2:  # with fewer, engines that score a group by two experts never select it
                scores = np.where(np.arange(8) // 4 == short, 5.0, 0.0)
                assert len(selected(scores, masked, 3, groups)) < 3
    assert 0 < refused < 36


@pytest.mark.parametrize(
    ("gate", "groups", "expected"),
    [
        ("softmax_top_k_renormalised", None, True),
        ("top_k_softmax", None, True),
        ("sigmoid_top_k", None, True),
        ("softmax_top_k", None, False),
        ("sparsemixer(0.01)", None, False),
        ("sigmoid_top_k_renormalised", ExpertGroups(4, 2), False),
        ("unknown", None, False),
    ],
)
def test_masking_an_unused_expert_changes_nothing_only_where_weights_and_groups_stay(gate, groups, expected):
    assert unused_has_no_effect(gate, groups) is expected
