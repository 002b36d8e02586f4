"""Tiny models as GGUF files: the same random weights as in `tiny`, under llama.cpp's names."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gguf
import numpy as np
from mlx.utils import tree_flatten

from moe_watch.backends.engine import Engine
from moe_watch.backends.model_files import catalog
from moe_watch.backends.protocol import EngineOptions
from tests.backends import tiny

QWEN3 = tiny.QWEN3 | {"mlp_only_layers": []}
QWEN2 = tiny.QWEN2 | {"mlp_only_layers": []}
"""llama.cpp supports no dense layers in Qwen's MoE models."""

ARCHITECTURES = {"llama": "llama", "mixtral": "llama", "qwen2_moe": "qwen2moe", "qwen3_moe": "qwen3moe"}

WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}

PARTS = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
    "gate": "ffn_gate_inp",
    "switch_mlp.gate_proj": "ffn_gate_exps",
    "switch_mlp.up_proj": "ffn_up_exps",
    "switch_mlp.down_proj": "ffn_down_exps",
    "shared_expert_gate": "ffn_gate_inp_shexp",
    "shared_expert.gate_proj": "ffn_gate_shexp",
    "shared_expert.up_proj": "ffn_up_shexp",
    "shared_expert.down_proj": "ffn_down_shexp",
}

Change = Callable[[gguf.GGUFWriter], None]


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a query or key projection as llama.cpp's `llama` architecture rotates them, in neighbouring pairs."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def gguf_tensors(config: dict[str, Any], seed: int) -> dict[str, np.ndarray]:
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    tensors = {}
    for path, array in tree_flatten(tiny.random_model(config, seed).parameters()):
        name, _, kind = path.rpartition(".")
        weight = np.array(array)
        if name in WHOLE:
            tensors[f"{WHOLE[name]}.{kind}"] = weight
            continue
        layer, _, inside = name.removeprefix("model.layers.").partition(".")
        part = PARTS[inside.removeprefix("block_sparse_moe.").removeprefix("mlp.")]
        if config["model_type"] in ("llama", "mixtral") and part in heads:
            weight = interleaved(weight, heads[part])
        tensors[f"blk.{layer}.{part}.{kind}"] = weight.squeeze(0) if part == "ffn_gate_inp_shexp" else weight
    return tensors


def add_architecture(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config.get("rms_norm_eps", 1e-5))
    writer.add_rope_freq_base(config["rope_theta"])
    if experts := config.get("num_local_experts") or config.get("num_experts"):
        writer.add_expert_count(experts)
        writer.add_expert_used_count(config["num_experts_per_tok"])
    if "moe_intermediate_size" in config:
        writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    if "shared_expert_intermediate_size" in config:
        writer.add_expert_shared_feed_forward_length(config["shared_expert_intermediate_size"])


def add_tokenizer(writer: gguf.GGUFWriter, ends: int = tiny.EOS) -> None:
    """One token per byte, as in `tiny`. Its only merge makes a token that is not there."""
    vocabulary = tiny.byte_tokenizer().get_vocab()
    special = (tiny.BOS, tiny.EOS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(sorted(vocabulary, key=vocabulary.__getitem__))
    writer.add_token_types(
        [gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL for token in range(len(vocabulary))]
    )
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(tiny.BOS)
    writer.add_eos_token_id(ends)
    writer.add_add_bos_token(True)


def write_gguf(
    path: pathlib.Path,
    config: dict[str, Any] = tiny.MIXTRAL,
    *,
    seed: int = 0,
    architecture: str | None = None,
    ends: int = tiny.EOS,
    tensors: dict[str, np.ndarray] | None = None,
    experts_as: gguf.GGMLQuantizationType | None = None,
    change: Change = lambda writer: None,
    tokenizer: Change | None = None,
) -> pathlib.Path:
    """A model file; `change` may add to its metadata, and the experts may be quantised."""
    writer = gguf.GGUFWriter(path, architecture or ARCHITECTURES[config["model_type"]])
    add_architecture(writer, config)
    if tokenizer is None:
        add_tokenizer(writer, ends)
    else:
        tokenizer(writer)
    change(writer)
    for name, tensor in (gguf_tensors(config, seed) if tensors is None else tensors).items():
        quantize = experts_as is not None and "_exps." in name
        writer.add_tensor(
            name, gguf.quantize(tensor, experts_as) if quantize else tensor, raw_dtype=experts_as if quantize else None
        )
    finish(writer)
    return path


def finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# -- loading


Open = Callable[[pathlib.Path | str], Engine]


@contextmanager
def opening() -> Iterator[Open]:
    """Yield a loader of files (or `pocket`), and release the models at the end."""
    from moe_watch.backends.llama.engine import load

    engines: list[Engine] = []

    def load_path(path: pathlib.Path | str) -> Engine:
        engines.append(
            load(catalog.locate(str(path), "llama.cpp"), options=EngineOptions(threads=1), progress=lambda _: None)
        )
        return engines[-1]

    try:
        yield load_path
    finally:
        for engine in engines:
            engine.close()


# -- families with other routers


def layers_with(config: dict[str, Any], vectors: dict[str, int]) -> dict[str, np.ndarray]:
    """Random vectors of these names and lengths in every layer."""
    random = np.random.default_rng(0)
    return {
        f"blk.{layer}.{name}": random.normal(size=length).astype(np.float32)
        for layer in range(config["num_hidden_layers"])
        for name, length in vectors.items()
    }


def write_sigmoid(path: pathlib.Path, *, logits_near: float = 0.0) -> pathlib.Path:
    """MiniMax-M2: the routers are sigmoids, selection is biased, and weights are divided by their sum.

    Args:
        path: of the file.
        logits_near: centre of the logits of all tokens except the first one of a context.
    """

    def change(writer: gguf.GGUFWriter) -> None:
        writer.add_expert_feed_forward_length(tiny.MIXTRAL["intermediate_size"])
        writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
        writer.add_rope_dimension_count(16)

    vectors = {"attn_q_norm.weight": 64, "attn_k_norm.weight": 32, "exp_probs_b.bias": 4}
    tensors = gguf_tensors(tiny.MIXTRAL, seed=0) | layers_with(tiny.MIXTRAL, vectors)
    if logits_near:
        shift_logits(tensors, logits_near)
    return write_gguf(path, architecture="minimax-m2", tensors=tensors, change=change)


def shift_logits(tensors: dict[str, np.ndarray], by: float) -> None:
    """Give all tokens but the first a large first component, which is √H after normalisation; routers weigh it."""
    tensors["token_embd.weight"] = tensors["token_embd.weight"].copy()
    tensors["token_embd.weight"][np.arange(len(tensors["token_embd.weight"])) != tiny.BOS, 0] = 1e3
    for name in [name for name in tensors if name.endswith("ffn_gate_inp.weight")]:
        tensors[name] = tensors[name].copy()
        tensors[name][:, 0] = by / np.sqrt(tensors[name].shape[1])


def write_scaled(path: pathlib.Path) -> pathlib.Path:
    """DeepSeek: the first layer is dense, and weights are probabilities times a constant."""

    def change(writer: gguf.GGUFWriter) -> None:
        writer.add_leading_dense_block_count(1)
        writer.add_expert_shared_count(1)
        writer.add_expert_weights_scale(2.5)

    left_out = (".bias", "ffn_gate_inp_shexp.weight")
    tensors = {name: tensor for name, tensor in gguf_tensors(QWEN2, seed=0).items() if not name.endswith(left_out)}
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("blk.0.ffn_") or "norm" in name}
    random = np.random.default_rng(0)
    for name, shape in {"gate": (64, 64), "up": (64, 64), "down": (64, 64)}.items():
        tensors[f"blk.0.ffn_{name}.weight"] = random.normal(size=shape).astype(np.float32)
    config = {key: value for key, value in QWEN2.items() if key != "shared_expert_intermediate_size"}
    return write_gguf(path, config, architecture="deepseek", tensors=tensors, change=change)


def write_gpt_oss(path: pathlib.Path) -> pathlib.Path:
    """gpt-oss: weights are the softmax of the selected logits; every second layer sees a short window only."""

    def change(writer: gguf.GGUFWriter) -> None:
        writer.add_expert_feed_forward_length(tiny.MIXTRAL["intermediate_size"])
        writer.add_sliding_window(128)
        writer.add_rope_dimension_count(16)
        writer.add_key_length(16)
        writer.add_value_length(16)

    named = gguf_tensors(tiny.MIXTRAL, seed=0).items()
    tensors = {name.replace("ffn_norm", "post_attention_norm"): tensor for name, tensor in named}
    lengths = {"attn_q": 64, "attn_k": 32, "attn_v": 32, "attn_output": 64, "ffn_gate_inp": 4}
    tensors |= layers_with(tiny.MIXTRAL, {f"{name}.bias": length for name, length in lengths.items()})
    tensors |= layers_with(tiny.MIXTRAL, {"attn_sinks.weight": 4})
    for layer in range(tiny.MIXTRAL["num_hidden_layers"]):
        for name in ("gate", "up", "down"):
            tensors[f"blk.{layer}.ffn_{name}_exps.bias"] = np.zeros((4, 64), np.float32)
    return write_gguf(path, architecture="gpt-oss", tensors=tensors, change=change)
