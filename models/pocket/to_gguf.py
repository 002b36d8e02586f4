"""Conversion of a Mixtral in Hugging Face layout to a GGUF file of llama.cpp's `llama` architecture, all float32."""

from __future__ import annotations

import pathlib
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating[Any]]
Json = dict[str, Any]

WHOLE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
PER_LAYER = {
    "attn_norm.weight": "input_layernorm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_gate_inp.weight": "block_sparse_moe.gate.weight",
}
ROTATED = {
    "attn_q.weight": ("self_attn.q_proj.weight", "num_attention_heads"),
    "attn_k.weight": ("self_attn.k_proj.weight", "num_key_value_heads"),
}
STACKED = {"ffn_gate_exps.weight": "w1", "ffn_down_exps.weight": "w2", "ffn_up_exps.weight": "w3"}


def interleaved(weight: Array, heads: int) -> Array:
    """Return the rows of a query or key projection [heads·D, hidden] in llama.cpp's order.

    Hugging Face rotates row i of a head together with row i + D/2; llama.cpp's `llama` architecture rotates
    neighbours, 2i and 2i + 1.
    """
    half = weight.shape[0] // heads // 2
    return weight.reshape(heads, 2, half, -1).swapaxes(1, 2).reshape(weight.shape)


def gguf_tensors(weights: Json, config: Json) -> dict[str, Array]:
    """Return all tensors under their GGUF names, in file order."""
    tensors: dict[str, Array] = {name: weights[source] for name, source in WHOLE.items()}
    for layer in range(config["num_hidden_layers"]):
        source, block = f"model.layers.{layer}", f"blk.{layer}"
        for name, part in PER_LAYER.items():
            tensors[f"{block}.{name}"] = weights[f"{source}.{part}"]
        for name, (part, heads) in ROTATED.items():
            tensors[f"{block}.{name}"] = interleaved(weights[f"{source}.{part}"], config[heads])
        experts = [f"{source}.block_sparse_moe.experts.{e}" for e in range(config["num_local_experts"])]
        for name, part in STACKED.items():
            tensors[f"{block}.{name}"] = np.stack([weights[f"{expert}.{part}.weight"] for expert in experts])
    return tensors


def add_architecture(writer: gguf.GGUFWriter, config: Json) -> None:
    """Add the shapes and constants of the model."""
    writer.add_name("pocket")
    writer.add_license("MIT")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_expert_count(config["num_local_experts"])
    writer.add_expert_used_count(config["num_experts_per_tok"])


def add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Json, config: Json) -> None:
    """Add the byte-level BPE of `tokenizer.json`; its special tokens become control tokens."""
    model = tokenizer["model"]
    special = {token["id"] for token in tokenizer["added_tokens"] if token["special"]}
    types = (gguf.TokenType.NORMAL, gguf.TokenType.CONTROL)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(sorted(model["vocab"], key=model["vocab"].__getitem__))
    writer.add_token_types([types[token in special] for token in range(len(model["vocab"]))])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(True)


def write_gguf(path: pathlib.Path, weights: Json, config: Json, tokenizer: Json) -> None:
    """Write the file, replacing an existing one."""
    writer = gguf.GGUFWriter(path, "llama")
    add_architecture(writer, config)
    add_tokenizer(writer, tokenizer, config)
    for name, tensor in gguf_tensors(weights, config).items():
        writer.add_tensor(name, tensor.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
