"""Hooks that read the routers and change nothing."""

from __future__ import annotations

import io
import pathlib

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.base import create_attention_mask

from moe_watch.backends.engine import RouterOutputs
from moe_watch.backends.generation.observation import captured
from moe_watch.backends.mlx.tap import RouterTap
from moe_watch.routing.router.gates import UNKNOWN_GATE
from tests.backends import tiny
from tests.backends.conftest import load_folder
from tests.backends.mlx.test_engine import PROMPT, begin, draw, sets
from tests.backends.reference import load_unwatched

IDS = mx.array([PROMPT])


def test_every_moe_layer_is_seen_through_its_type() -> None:
    """A `__call__` set on an instance is never called: every layer must be recorded, in every pass."""
    tap = RouterTap(model := tiny.random_model(tiny.QWEN3))
    assert [layer.index for layer in tap.layers] == [1, 2]
    frames = []
    for _ in range(2):
        model(IDS)
        frames.append(tap.frame)
    assert frames[0] is not frames[1]
    for frame in frames:
        assert [array.shape for array in frame.experts] == [(1, len(PROMPT), 3)] * 2
        assert [array.shape for array in frame.logits] == [(1, len(PROMPT), 8)] * 2


def test_nothing_is_evaluated_inside_the_forward_pass() -> None:
    """MLX refuses to evaluate traced arrays, so a hook that evaluates fails here."""
    model = tiny.random_model(tiny.MIXTRAL)
    expected = np.array(model(IDS))
    tap = RouterTap(model)

    def watched(ids: mx.array) -> tuple[mx.array, list[mx.array]]:
        return model(ids), tap.frame.arrays()

    output, caught = mx.compile(watched)(IDS)
    np.testing.assert_allclose(np.array(output), expected, atol=1e-5)
    assert len(caught) == 4
    with pytest.raises(ValueError, match="eval"):
        mx.compile(lambda ids: np.array(model(ids)))(IDS)


def test_closing_leaves_the_model_as_it_was() -> None:
    model = tiny.random_model(tiny.MIXTRAL)
    before = {path: type(module) for path, module in model.named_modules()}
    expected = np.array(model(IDS))
    tap = RouterTap(model)
    during = {path: type(module) for path, module in model.named_modules()}
    assert sum(during[path] is not before[path] for path in before) == 1 + 2 * 2
    assert (np.array(model(IDS)) == expected).all()
    tap.close()
    assert {path: type(module) for path, module in model.named_modules()} == before


def test_the_output_depends_on_what_was_caught() -> None:
    """Evaluation of the output also evaluates the routing, in the same pass."""
    model = tiny.random_model(tiny.MIXTRAL)
    assert "Depends" not in graph(model(IDS))
    RouterTap(model)
    assert "Depends" in graph(model(IDS))


def graph(array: mx.array) -> str:
    """The operations that an array waits for."""
    written = io.StringIO()
    mx.export_to_dot(written, array)
    return written.getvalue()


def test_a_dense_model_gets_no_hook() -> None:
    model = tiny.random_model(tiny.LLAMA)
    before = {path: type(module) for path, module in model.named_modules()}
    tap = RouterTap(model)
    assert {path: type(module) for path, module in model.named_modules()} == before
    assert "Depends" not in graph(model(IDS))
    assert (tap.layers, tap.gate, tap.sees_weights) == ([], "none", False)
    tap.observe(False)
    tap.observe(True)
    assert tap.frame.read(3).experts == []
    tap.close()


def test_a_router_that_returns_its_routes_is_seen_with_them(tmp_path: pathlib.Path) -> None:
    folder = tiny.write_model(tmp_path / "glm", tiny.GLM4)
    engine = load_folder(folder)
    assert (engine.model.gate, engine.model.layers) == ("sigmoid_top_k_renormalised", [1, 2])
    assert captured(engine.model.gate) == ["experts", "weights", "entropy", "margin", "logprob"]
    assert engine.backend.tap.startswith("expert indices, router logits and weights")
    routings = begin(engine) + [token.routing for token in draw(engine, 30)]
    drawn_again = [token.id for token in (begin(engine), draw(engine, 30))[1]]
    experts, weights, logits = glm_routes(folder, PROMPT + drawn_again)
    np.testing.assert_array_equal(stacked(routings, "experts"), experts)
    np.testing.assert_allclose(stacked(routings, "weights"), weights, atol=1e-5)
    np.testing.assert_allclose(stacked(routings, "logits"), logits, atol=1e-4)


def stacked(routings: list[RouterOutputs], what: str) -> np.ndarray:
    """One quantity of successive steps: [T, L, …]."""
    return np.concatenate([np.stack(getattr(routing, what), axis=1) for routing in routings])


def glm_routes(folder: pathlib.Path, ids: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the output of the routers of a GLM without a tap, [T, L, k] twice, and their logits [T, L, E]."""
    model = load_unwatched(folder)
    hidden = model.model.embed_tokens(mx.array([ids]))
    mask = create_attention_mask(hidden)
    routes = []
    for layer in model.layers:
        attended = hidden + layer.self_attn(layer.input_layernorm(hidden), mask)
        given = layer.post_attention_layernorm(attended)
        if "gate" in layer.mlp:
            routes.append((*layer.mlp.gate(given), given @ layer.mlp.gate.weight.T))
        hidden = attended + layer.mlp(given)
    experts, weights, logits = (
        np.stack([np.array(part)[0] for part in parts], axis=1) for parts in zip(*routes, strict=True)
    )
    return experts, weights, logits


def test_an_unknown_gate_shows_experts_and_guesses_nothing(tmp_path: pathlib.Path) -> None:
    engine = load_folder(tiny.write_model(tmp_path / "klear", tiny.KLEAR))
    assert engine.model.gate == UNKNOWN_GATE
    assert captured(engine.model.gate) == ["experts", "logprob"]
    assert engine.backend.tap.startswith("expert indices, hooked")
    routings = begin(engine)
    assert sets(routings).shape == (len(PROMPT), 2, 3)
    assert {logits is None for routing in routings for logits in routing.logits} == {True}
    assert [routing.weights for routing in routings] == [[]] * len(routings)


def test_layers_that_route_in_different_ways_have_no_gate_in_common() -> None:
    model = tiny.random_model(tiny.QWEN3)
    assert RouterTap(model).gate == "softmax_top_k_renormalised"
    model = tiny.random_model(tiny.QWEN3)
    model.layers[2].mlp.norm_topk_prob = False
    assert RouterTap(model).gate == UNKNOWN_GATE
