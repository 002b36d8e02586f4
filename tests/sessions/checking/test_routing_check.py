"""The routing check: what it accepts, and each fault that it must find."""

from __future__ import annotations

import msgspec
import pytest

from moe_watch.routing.events import Header, ModelInfo, Token
from moe_watch.sessions.checking.routing import layer_check, routing_check
from tests.sessions.kit import HEADER

GATE = "top_k_softmax"
"""Its weights sum to 1."""


def header(gate: str = GATE) -> Header:
    model = msgspec.structs.replace(HEADER.model, layers=[0, 3], experts=4, experts_per_token=2, gate=gate)
    return msgspec.structs.replace(HEADER, model=model)


def token(i: int = 0, **changes: object) -> Token:
    """A token of two layers: experts 1, 3 with weights 0.7, 0.3, and 2, 0 with 0.5, 0.5."""
    fields = {
        "i": i,
        "t": 0.0,
        "phase": "decode",
        "source": "generated",
        "id": 5,
        "text": "x",
        "experts": [1, 3, 2, 0],
        "weights": [7000, 3000, 5000, 5000],
        "entropy": [6000, 7000],
        "margin": [3000, 0],
    }
    return Token(**(fields | changes))


def test_sound_routing_is_measured() -> None:
    found = routing_check([token(0), token(1)], header())
    assert found.status == "ok"
    assert found.value == "2 tokens × 2 layers, all experts different; weights sum to 1.00, entropy 0.60 to 0.70"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"experts": [1, 1, 2, 0]}, "layer 0 selects an expert twice"),
        ({"experts": [1, 3, 2, 4]}, "layer 3 selects expert 4 of 4"),
        ({"experts": [1, 3, None, None], "weights": [7000, 3000, None, None]}, "token 0 has no routing in layer 3"),
        ({"weights": [7000, 2000, 5000, 5000]}, "weights sum to 0.9000"),
        ({"weights": [3000, 7000, 5000, 5000]}, "has a larger weight than"),
        ({"entropy": [12000, 7000]}, "entropy holds 12000"),
        ({"entropy": [100, 7000]}, "entropy 0.0100 with margin 0.3000"),
        ({"experts": [1, 3, 2]}, "experts holds 3 values instead of 4"),
    ],
)
def test_faults_are_found(changes: dict[str, object], said: str) -> None:
    found = routing_check([token(**changes)], header())
    assert found.status == "fail"
    assert said in found.value
    assert found.advice


def test_weights_that_need_not_sum_to_one() -> None:
    """A softmax over all experts leaves a share to the others, and never exceeds 1."""
    assert routing_check([token(weights=[5000, 2000, 4000, 4000])], header("softmax_top_k")).status == "ok"
    assert routing_check([token(weights=[9000, 2000, 5000, 5000])], header("softmax_top_k")).status == "fail"


def test_a_scaled_gate_sums_to_its_scale() -> None:
    doubled = token(weights=[17500, 7500, 12500, 12500])
    assert routing_check([doubled], header("sigmoid_top_k_renormalised×2.5")).status == "ok"
    assert routing_check([doubled], header("sigmoid_top_k_renormalised×2")).status == "fail"


def test_an_engine_may_skip_a_layer_for_prompt_tokens_only() -> None:
    skipped = {"experts": [1, 3, None, None], "weights": [7000, 3000, None, None], "entropy": [6000, None]}
    prompt = token(0, source="prompt", phase="prefill", margin=[3000, None], **skipped)
    assert routing_check([prompt, token(1)], header()).status == "ok"
    assert routing_check([prompt], header()).status == "fail"


def test_an_unknown_gate_is_a_limitation() -> None:
    capture = msgspec.structs.replace(header("unknown"), capture=["experts", "logprob"])
    found = routing_check([token(weights=None, entropy=None, margin=None)], capture)
    assert (found.status, "gate of this family is not known" in found.value) == ("warning", True)


def test_no_token_is_a_failure() -> None:
    assert routing_check([], header()).status == "fail"


def test_layers() -> None:
    assert layer_check(header().model).value == "2 MoE layers of 4 experts, top-2; gate top_k_softmax"
    dense = ModelInfo(name="d", architecture="llama", layers=[], experts=0, experts_per_token=0, gate="unknown")
    assert layer_check(dense).status == "warning"
    assert routing_check([token(experts=[])], msgspec.structs.replace(HEADER, model=dense)).status == "ok"
