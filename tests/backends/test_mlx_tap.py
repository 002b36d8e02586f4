"""Hooks that watch and change nothing."""

from __future__ import annotations

import io
import pathlib

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.base import create_attention_mask

from backends.mlx_tap import UNKNOWN_GATE, RouterTap
from backends.observation import captured
from routing.errors import UserError
from tests.backends import tiny
from tests.backends.conftest import load_folder
from tests.backends.reference import load_unwatched
from tests.backends.test_mlx_engine import PROMPT, begin, draw, sets

IDS = mx.array([PROMPT])


def test_every_moe_layer_is_seen_through_its_type() -> None:
    """A `__call__` set on an instance is never called: every layer must show up, in every pass."""
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
    """MLX refuses to evaluate what is being traced, so a hook that evaluates anything fails here."""
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
    """Whoever evaluates the output gets the routing with it, in the same pass."""
    model = tiny.random_model(tiny.MIXTRAL)
    assert "Depends" not in graph(model(IDS))
    RouterTap(model)
    assert "Depends" in graph(model(IDS))


def graph(array: mx.array) -> str:
    """The operations that an array waits for."""
    written = io.StringIO()
    mx.export_to_dot(written, array)
    return written.getvalue()


def test_a_dense_model_is_refused() -> None:
    with pytest.raises(UserError, match="no MoE layer"):
        RouterTap(tiny.random_model(tiny.LLAMA))


def test_an_unknown_gate_shows_experts_and_guesses_nothing(tmp_path: pathlib.Path) -> None:
    folder = tiny.write_model(tmp_path / "glm", tiny.GLM4)
    engine = load_folder(folder)
    assert (engine.model.gate, engine.model.layers) == (UNKNOWN_GATE, [1, 2])
    assert captured(engine.model.gate) == ["experts", "logprob"]
    routings = begin(engine) + [token.routing for token in draw(engine, 30)]
    drawn_again = [token.id for token in (begin(engine), draw(engine, 30))[1]]
    assert (sets(routings) == glm_sets(folder, PROMPT + drawn_again)).all()
    assert {layer is None for routing in routings for layer in routing.logits} == {True}


def glm_sets(folder: pathlib.Path, ids: list[int]) -> np.ndarray:
    """What the routers of an unwatched GLM select: [T, L, k], ascending."""
    model = load_unwatched(folder)
    hidden = model.model.embed_tokens(mx.array([ids]))
    mask = create_attention_mask(hidden)
    selected = []
    for layer in model.layers:
        attended = hidden + layer.self_attn(layer.input_layernorm(hidden), mask)
        given = layer.post_attention_layernorm(attended)
        if "gate" in layer.mlp:
            selected.append(np.array(layer.mlp.gate(given)[0])[0])
        hidden = attended + layer.mlp(given)
    return np.sort(np.stack(selected, axis=1), axis=-1)
