"""Shapes of published Mixture-of-Experts models, from the config.json of their repositories on the Hugging Face Hub."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

Named = tuple[str, tuple[int, ...]]
"""Name of a tensor in a GGUF file, and its shape, which begins with the length of a row."""


@dataclass(frozen=True)
class Attention:
    """Grouped-query attention."""

    heads: int
    kv_heads: int
    width: int
    """Numbers per head."""
    norms: tuple[int, int] = (0, 0)
    """Lengths of the norms of queries and keys; 0 is none."""
    has_biases: bool = False
    """Queries, keys and values have biases."""
    has_sinks: bool = False
    """The output has a bias too, and each head a sink."""
    is_gated: bool = False
    """Queries have a gate of the same size."""

    def tensors(self, hidden: int) -> Iterator[Named]:
        queries, keys = self.heads * self.width, self.kv_heads * self.width
        yield "attn_q.weight", (hidden, queries * (2 if self.is_gated else 1))
        yield "attn_k.weight", (hidden, keys)
        yield "attn_v.weight", (hidden, keys)
        yield "attn_output.weight", (queries, hidden)
        yield from ((f"attn_{name}_norm.weight", (n,)) for name, n in zip("qk", self.norms, strict=True) if n)
        if self.has_biases:
            yield from ((f"attn_{name}.bias", (n,)) for name, n in (("q", queries), ("k", keys), ("v", keys)))
        if self.has_sinks:
            yield from (("attn_output.bias", (hidden,)), ("attn_sinks.weight", (self.heads,)))

    @property
    def kv_width(self) -> int:
        """Numbers per token that the KV cache stores."""
        return 2 * self.kv_heads * self.width


@dataclass(frozen=True)
class LatentAttention:
    """Multi-head latent attention (arXiv:2405.04434), as llama.cpp stores it."""

    heads: int
    latent: int
    rotated: int
    plain: int
    values: int
    query_latent: int = 0

    def tensors(self, hidden: int) -> Iterator[Named]:
        queries = self.heads * (self.plain + self.rotated)
        if self.query_latent:
            yield "attn_q_a.weight", (hidden, self.query_latent)
            yield "attn_q_a_norm.weight", (self.query_latent,)
            yield "attn_q_b.weight", (self.query_latent, queries)
        else:
            yield "attn_q.weight", (hidden, queries)
        yield "attn_kv_a_mqa.weight", (hidden, self.latent + self.rotated)
        yield "attn_kv_a_norm.weight", (self.latent,)
        yield "attn_k_b.weight", (self.plain, self.latent, self.heads)
        yield "attn_v_b.weight", (self.latent, self.values, self.heads)
        yield "attn_output.weight", (self.heads * self.values, hidden)

    @property
    def kv_width(self) -> int:
        """Numbers per token that the KV cache stores."""
        return self.latent + self.rotated


@dataclass(frozen=True)
class LinearAttention:
    """Gated delta net of Qwen3-Next; its state does not grow with the context."""

    key_heads: int
    value_heads: int
    width: int
    kernel: int
    every: int
    """Distance between two layers with full attention; the layers between them are linear."""

    def tensors(self, hidden: int) -> Iterator[Named]:
        keys, values = self.key_heads * self.width, self.value_heads * self.width
        yield "attn_qkv.weight", (hidden, 2 * keys + values)
        yield "attn_gate.weight", (hidden, values)
        yield "ssm_ba.weight", (hidden, 2 * self.value_heads)
        yield "ssm_conv1d.weight", (self.kernel, 2 * keys + values)
        yield from (("ssm_a", (self.value_heads,)), ("ssm_dt.bias", (self.value_heads,)))
        yield "ssm_norm.weight", (self.width,)
        yield "ssm_out.weight", (values, hidden)


@dataclass(frozen=True)
class Experts:
    """Feed-forward part of an MoE layer."""

    count: int
    used: int
    width: int
    shared: int = 0
    """Width of the shared experts together; 0 is none."""
    has_shared_gate: bool = False
    has_biases: bool = False
    """Experts and router have biases."""
    has_selection_bias: bool = False

    def tensors(self, hidden: int) -> Iterator[Named]:
        yield "ffn_gate_inp.weight", (hidden, self.count)
        if self.has_selection_bias:
            yield "exp_probs_b.bias", (self.count,)
        for name in ("gate", "up"):
            yield f"ffn_{name}_exps.weight", (hidden, self.width, self.count)
        yield "ffn_down_exps.weight", (self.width, hidden, self.count)
        if self.has_biases:
            yield "ffn_gate_inp.bias", (self.count,)
            yield from ((f"ffn_{name}_exps.bias", (self.width, self.count)) for name in ("gate", "up"))
            yield "ffn_down_exps.bias", (hidden, self.count)
        if self.shared:
            yield from ((f"ffn_{name}_shexp.weight", (hidden, self.shared)) for name in ("gate", "up"))
            yield "ffn_down_shexp.weight", (self.shared, hidden)
        if self.has_shared_gate:
            yield "ffn_gate_inp_shexp.weight", (hidden,)


@dataclass(frozen=True)
class PublishedShape:
    """Shape of one published model, without vision parts and without layers for drafting (MTP)."""

    title: str
    repository: str
    """Repository on the Hugging Face Hub, whose config.json has these numbers."""
    published: tuple[float, float]
    """Parameters and active parameters in billions, as published."""
    layers: int
    hidden: int
    vocabulary: int
    attention: Attention | LatentAttention
    experts: Experts
    dense: int = 0
    """Number of leading layers without experts."""
    dense_width: int = 0
    linear: LinearAttention | None = None
    has_norm_biases: bool = False
    is_tied: bool = False
    window: int = 0
    """Tokens that every second layer attends to; 0 is all."""

    @property
    def every(self) -> int:
        """Distance between two layers with full attention."""
        return 1 if self.linear is None else self.linear.every

    @property
    def moe_layers(self) -> int:
        return self.layers - self.dense

    @cached_property
    def tensors(self) -> list[Named]:
        """All tensors of the GGUF file."""
        found: list[Named] = [("token_embd.weight", (self.hidden, self.vocabulary)), *self._norm("output_norm")]
        if not self.is_tied:
            found.append(("output.weight", (self.hidden, self.vocabulary)))
        for layer in range(self.layers):
            found += ((f"blk.{layer}.{name}", shape) for name, shape in self._layer(layer))
        return found

    def _layer(self, layer: int) -> Iterator[Named]:
        yield from (*self._norm("attn_norm"), *self._norm("ffn_norm"))
        is_linear = self.linear is not None and (layer + 1) % self.every != 0
        mixer = self.linear if self.linear is not None and is_linear else self.attention
        yield from mixer.tensors(self.hidden)
        if layer >= self.dense:
            yield from self.experts.tensors(self.hidden)
            return
        yield from ((f"ffn_{name}.weight", (self.hidden, self.dense_width)) for name in ("gate", "up"))
        yield "ffn_down.weight", (self.dense_width, self.hidden)

    def _norm(self, name: str) -> Iterator[Named]:
        yield f"{name}.weight", (self.hidden,)
        if self.has_norm_biases:
            yield f"{name}.bias", (self.hidden,)

    @property
    def parameters(self) -> int:
        return sum(math.prod(shape) for _, shape in self.tensors)

    @property
    def expert_parameters(self) -> int:
        """Parameters of one routed expert in one layer."""
        routed = (math.prod(shape) for name, shape in self.experts.tensors(self.hidden) if "_exps." in name)
        return sum(routed) // self.experts.count

    @property
    def active_parameters(self) -> int:
        """Parameters that one token uses: all but the parameters of experts that are not selected."""
        idle = (self.experts.count - self.experts.used) * self.expert_parameters * self.moe_layers
        return self.parameters - idle

    def kv_bytes(self, context: int, number: int = 2) -> int:
        """Return the size of the KV cache. llama.cpp keeps the whole context for layers with a window, too.

        Args:
            context: number of tokens.
            number: bytes of one number.
        """
        return self.layers // self.every * context * self.attention.kv_width * number


PUBLISHED: dict[str, PublishedShape] = {
    "mixtral-8x7b": PublishedShape(
        "Mixtral 8x7B", "mistralai/Mixtral-8x7B-v0.1", (46.7, 12.9), 32, 4096, 32000,
        Attention(32, 8, 128), Experts(8, 2, 14336),
    ),
    "mixtral-8x22b": PublishedShape(
        "Mixtral 8x22B", "mistralai/Mixtral-8x22B-v0.1", (141, 39), 56, 6144, 32000,
        Attention(48, 8, 128), Experts(8, 2, 16384),
    ),
    "qwen3-30b-a3b": PublishedShape(
        "Qwen3-30B-A3B", "Qwen/Qwen3-30B-A3B", (30.5, 3.3), 48, 2048, 151936,
        Attention(32, 4, 128, norms=(128, 128)), Experts(128, 8, 768),
    ),
    "qwen3-235b-a22b": PublishedShape(
        "Qwen3-235B-A22B", "Qwen/Qwen3-235B-A22B", (235, 22), 94, 4096, 151936,
        Attention(64, 4, 128, norms=(128, 128)), Experts(128, 8, 1536),
    ),
    "qwen3-coder-next": PublishedShape(
        "Qwen3-Coder-Next", "Qwen/Qwen3-Coder-Next", (80, 3), 48, 2048, 151936,
        Attention(16, 2, 256, norms=(256, 256), is_gated=True),
        Experts(512, 10, 512, shared=512, has_shared_gate=True),
        linear=LinearAttention(16, 32, 128, 4, every=4),
    ),
    "deepseek-v2-lite": PublishedShape(
        "DeepSeek-V2-Lite", "deepseek-ai/DeepSeek-V2-Lite", (15.7, 2.4), 27, 2048, 102400,
        LatentAttention(16, 512, 64, 128, 128), Experts(64, 6, 1408, shared=2816), dense=1, dense_width=10944,
    ),
    "deepseek-v3": PublishedShape(
        "DeepSeek-V3", "deepseek-ai/DeepSeek-V3", (671, 37), 61, 7168, 129280,
        LatentAttention(128, 512, 64, 128, 128, query_latent=1536),
        Experts(256, 8, 2048, shared=2048, has_selection_bias=True), dense=3, dense_width=18432,
    ),
    "olmoe-1b-7b": PublishedShape(
        "OLMoE-1B-7B", "allenai/OLMoE-1B-7B-0924", (6.9, 1.3), 16, 2048, 50304,
        Attention(16, 16, 128, norms=(2048, 2048)), Experts(64, 8, 1024),
    ),
    "gpt-oss-20b": PublishedShape(
        "gpt-oss-20b", "openai/gpt-oss-20b", (20.9, 3.6), 24, 2880, 201088,
        Attention(64, 8, 64, has_biases=True, has_sinks=True), Experts(32, 4, 2880, has_biases=True), window=128,
    ),
    "gpt-oss-120b": PublishedShape(
        "gpt-oss-120b", "openai/gpt-oss-120b", (116.8, 5.1), 36, 2880, 201088,
        Attention(64, 8, 64, has_biases=True, has_sinks=True), Experts(128, 4, 2880, has_biases=True), window=128,
    ),
    "glm-4.5-air": PublishedShape(
        "GLM-4.5-Air", "zai-org/GLM-4.5-Air", (106, 12), 46, 4096, 151552,
        Attention(96, 8, 128, has_biases=True), Experts(128, 8, 1408, shared=1408, has_selection_bias=True),
        dense=1, dense_width=10944,
    ),
    "phi-3.5-moe": PublishedShape(
        "Phi-3.5-MoE", "microsoft/Phi-3.5-MoE-instruct", (41.9, 6.6), 32, 4096, 32064,
        Attention(32, 8, 128, has_biases=True), Experts(16, 2, 6400), has_norm_biases=True,
    ),
    "llama-4-scout": PublishedShape(
        "Llama 4 Scout", "meta-llama/Llama-4-Scout-17B-16E", (109, 17), 48, 5120, 202048,
        Attention(40, 8, 128), Experts(16, 1, 8192, shared=8192),
    ),
}  # fmt: skip
"""Models by name."""
