"""MLX must route pocket exactly as `transformers` does, and as a forward pass written from the definitions does."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt
import pytest
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.integer[Any]]
Golden = dict[str, npt.NDArray[Any]]
Run = Callable[[list[Ints]], tuple[Floats, Floats]]
TOLERANCE = 1e-3


def softmax(x: Floats) -> Floats:
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def top_k(router_logits: Floats, k: int) -> Ints:
    """The selected set, in order of id."""
    return np.sort(np.argsort(-router_logits, axis=-1, kind="stable")[..., :k], axis=-1)


class NumpyMixtral:
    """Mixtral's forward pass over a whole text, float32, one function for each of its parts."""

    def __init__(self, weights: dict[str, Any], config: dict[str, Any]) -> None:
        self.weights = {name: tensor.astype(np.float32) for name, tensor in weights.items()}
        self.config = config
        self.router_logits: list[Floats] = []

    def linear(self, x: Floats, name: str) -> Floats:
        return x @ self.weights[f"{name}.weight"].T

    def norm(self, x: Floats, name: str) -> Floats:
        mean_square = np.mean(x**2, axis=-1, keepdims=True)
        return x / np.sqrt(mean_square + np.float32(self.config["rms_norm_eps"])) * self.weights[f"{name}.weight"]

    def rotate(self, x: Floats) -> Floats:
        """Rotary embedding of [heads, T, D]: element i turns with element i + D/2."""
        half = x.shape[-1] // 2
        frequency = self.config["rope_theta"] ** -(np.arange(half) / half)
        angle = np.arange(x.shape[1])[:, None] * frequency
        cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
        first, second = x[..., :half], x[..., half:]
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)

    def heads(self, x: Floats, name: str, count: int) -> Floats:
        """Projection of [T, hidden] as [count, T, D]."""
        return self.linear(x, name).reshape(len(x), count, -1).swapaxes(0, 1)

    def attention(self, x: Floats, name: str) -> Floats:
        query_heads, shared_heads = self.config["num_attention_heads"], self.config["num_key_value_heads"]
        query = self.rotate(self.heads(x, f"{name}.q_proj", query_heads))
        key = self.rotate(self.heads(x, f"{name}.k_proj", shared_heads))
        value = self.heads(x, f"{name}.v_proj", shared_heads)
        key, value = (np.repeat(part, query_heads // shared_heads, axis=0) for part in (key, value))
        scores = query @ key.swapaxes(1, 2) / np.float32(np.sqrt(query.shape[-1]))
        future = np.triu(np.ones(scores.shape[1:], bool), k=1)
        mixed = softmax(np.where(future, -np.inf, scores)) @ value
        return self.linear(mixed.swapaxes(0, 1).reshape(len(x), -1), f"{name}.o_proj")

    def expert(self, x: Floats, name: str) -> Floats:
        gate = self.linear(x, f"{name}.w1")
        return self.linear(gate / (1 + np.exp(-gate)) * self.linear(x, f"{name}.w3"), f"{name}.w2")

    def mixture(self, x: Floats, name: str) -> Floats:
        logits = self.linear(x, f"{name}.gate")
        self.router_logits.append(logits)
        selected = top_k(logits, self.config["num_experts_per_tok"])
        weights = softmax(np.take_along_axis(logits, selected, axis=-1))
        result = np.zeros_like(x)
        for expert in range(logits.shape[1]):
            token, slot = np.nonzero(selected == expert)
            result[token] += weights[token, slot, None] * self.expert(x[token], f"{name}.experts.{expert}")
        return result

    def __call__(self, ids: Ints) -> tuple[Floats, Floats]:
        """Router logits [T, L, E] and output logits [T, vocabulary]."""
        self.router_logits.clear()
        x = self.weights["model.embed_tokens.weight"][ids]
        for layer in range(self.config["num_hidden_layers"]):
            name = f"model.layers.{layer}"
            x = x + self.attention(self.norm(x, f"{name}.input_layernorm"), f"{name}.self_attn")
            x = x + self.mixture(self.norm(x, f"{name}.post_attention_layernorm"), f"{name}.block_sparse_moe")
        return np.stack(self.router_logits, axis=1), self.linear(self.norm(x, "model.norm"), "lm_head")


class RecordingGate(nn.Module):  # type: ignore[misc]  # mlx comes without types
    def __init__(self, gate: nn.Module, seen: list[mx.array]) -> None:
        super().__init__()
        self.gate = gate
        self.record = seen.append

    def __call__(self, x: mx.array) -> mx.array:
        logits = self.gate(x)
        self.record(logits)
        return logits


@pytest.fixture(scope="module")
def run_mlx(pocket_folder: pathlib.Path) -> Run:
    """Evaluate successive pieces of one text, as router logits [T, L, E] and output logits [T, vocabulary]."""
    model, _ = load_model(pocket_folder)
    model.set_dtype(mx.float32)
    seen: list[mx.array] = []
    for layer in model.layers:
        layer.block_sparse_moe.gate = RecordingGate(layer.block_sparse_moe.gate, seen)

    def run(pieces: list[Ints]) -> tuple[Floats, Floats]:
        cache = make_prompt_cache(model)
        routers, outputs = [], []
        for piece in pieces:
            seen.clear()
            outputs.append(np.array(model(mx.array(piece)[None], cache=cache)[0]))
            routers.append(np.stack([np.array(logits[0]) for logits in seen], axis=1))
        return np.concatenate(routers), np.concatenate(outputs)

    return run


@pytest.fixture(scope="module")
def whole_text(run_mlx: Run, golden: Golden) -> tuple[Floats, Floats]:
    return run_mlx([golden["ids"]])


def test_golden_covers_prompt_and_continuation(golden: Golden, pocket_config: dict[str, Any]) -> None:
    tokens, layers, experts = golden["router_logits"].shape
    assert tokens == len(golden["ids"]) > golden["prompt_tokens"] > 30
    assert (layers, experts) == (pocket_config["num_hidden_layers"], pocket_config["num_local_experts"])
    assert golden["experts"].shape == (tokens, layers, pocket_config["num_experts_per_tok"])
    assert len(np.unique(golden["experts"])) == experts


def test_mlx_routes_as_transformers(whole_text: tuple[Floats, Floats], golden: Golden) -> None:
    router_logits, output_logits = whole_text
    np.testing.assert_array_equal(
        top_k(router_logits, golden["experts"].shape[-1]), np.sort(golden["experts"], axis=-1)
    )
    np.testing.assert_allclose(router_logits, golden["router_logits"], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(output_logits[-1], golden["last_logits"], rtol=0, atol=TOLERANCE)


def test_mlx_routes_token_by_token_as_over_the_whole_text(
    run_mlx: Run, whole_text: tuple[Floats, Floats], golden: Golden
) -> None:
    ids, prompt_tokens, k = golden["ids"], int(golden["prompt_tokens"]), golden["experts"].shape[-1]
    router_logits, output_logits = run_mlx([ids[:prompt_tokens], *ids[prompt_tokens:, None]])
    np.testing.assert_array_equal(top_k(router_logits, k), top_k(whole_text[0], k))
    np.testing.assert_allclose(output_logits, whole_text[1], rtol=0, atol=TOLERANCE)


def test_mlx_continues_greedily_as_transformers(whole_text: tuple[Floats, Floats], golden: Golden) -> None:
    first = int(golden["prompt_tokens"])
    np.testing.assert_array_equal(whole_text[1][first - 1 : -1].argmax(axis=-1), golden["ids"][first:])


def test_mlx_routes_as_the_definitions_say(
    whole_text: tuple[Floats, Floats], golden: Golden, pocket_weights: dict[str, Any], pocket_config: dict[str, Any]
) -> None:
    router_logits, output_logits = NumpyMixtral(pocket_weights, pocket_config)(golden["ids"])
    k = pocket_config["num_experts_per_tok"]
    assert np.isfinite(whole_text[1]).all()
    np.testing.assert_array_equal(top_k(whole_text[0], k), top_k(router_logits, k))
    np.testing.assert_allclose(whole_text[0], router_logits, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(whole_text[1], output_logits, rtol=0, atol=TOLERANCE)
