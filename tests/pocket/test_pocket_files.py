"""pocket ships as one set of numbers in two files, and each engine must read the same model out of its own."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest
from tokenizers import Tokenizer

Weights = dict[str, npt.NDArray[np.float16]]
TEXTS = (
    "def main(argv):\n    return [int(x) for x in argv]\n",
    'raise ValueError(f"{path!r}: naïve, 中文, 🐍, \\t tabs")\r\n',
    "   leading and trailing spaces   ",
    "".join(map(chr, range(1, 256))),
    "",
)


@pytest.fixture(scope="module")
def gguf_file(pocket_folder: pathlib.Path) -> gguf.GGUFReader:
    return gguf.GGUFReader(pocket_folder / "pocket.gguf")


@pytest.fixture(scope="module")
def tokenizer(pocket_folder: pathlib.Path) -> Tokenizer:
    return Tokenizer.from_file(str(pocket_folder / "tokenizer.json"))


def half_split(weight: npt.NDArray[np.float32], heads: int) -> npt.NDArray[np.float32]:
    """Rows 2i and 2i+1 of every head, which llama.cpp rotates together, moved D/2 apart as Hugging Face has them."""
    rows = np.arange(len(weight)).reshape(heads, -1)
    order = np.concatenate([np.concatenate([head[0::2], head[1::2]]) for head in rows])
    return weight[order]


def stacked(weights: Weights, layer: int, part: str, experts: int) -> npt.NDArray[np.float16]:
    return np.stack(
        [weights[f"model.layers.{layer}.block_sparse_moe.experts.{e}.{part}.weight"] for e in range(experts)]
    )


def expected_layer(weights: Weights, layer: int, experts: int) -> dict[str, npt.NDArray[np.float16]]:
    source = f"model.layers.{layer}."
    return {
        "attn_norm": weights[source + "input_layernorm.weight"],
        "attn_q": weights[source + "self_attn.q_proj.weight"],
        "attn_k": weights[source + "self_attn.k_proj.weight"],
        "attn_v": weights[source + "self_attn.v_proj.weight"],
        "attn_output": weights[source + "self_attn.o_proj.weight"],
        "ffn_norm": weights[source + "post_attention_layernorm.weight"],
        "ffn_gate_inp": weights[source + "block_sparse_moe.gate.weight"],
        "ffn_gate_exps": stacked(weights, layer, "w1", experts),
        "ffn_down_exps": stacked(weights, layer, "w2", experts),
        "ffn_up_exps": stacked(weights, layer, "w3", experts),
    }


def test_both_files_hold_the_same_numbers(
    gguf_file: gguf.GGUFReader, pocket_weights: Weights, pocket_config: dict[str, Any]
) -> None:
    heads = {"attn_q": pocket_config["num_attention_heads"], "attn_k": pocket_config["num_key_value_heads"]}
    expected = {
        "token_embd": pocket_weights["model.embed_tokens.weight"],
        "output_norm": pocket_weights["model.norm.weight"],
        "output": pocket_weights["lm_head.weight"],
    }
    for layer in range(pocket_config["num_hidden_layers"]):
        parts = expected_layer(pocket_weights, layer, pocket_config["num_local_experts"])
        expected |= {f"blk.{layer}.{name}": tensor for name, tensor in parts.items()}

    found = {tensor.name.removesuffix(".weight"): tensor for tensor in gguf_file.tensors}

    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        values = tensor.data
        assert tensor.tensor_type == gguf.GGMLQuantizationType.F32, name
        if name.split(".")[-1] in heads:
            values = half_split(values, heads[name.split(".")[-1]])
        np.testing.assert_array_equal(values, expected[name].astype(np.float32), err_msg=name, strict=True)


def test_every_weight_is_accounted_for(gguf_file: gguf.GGUFReader, pocket_weights: Weights) -> None:
    parameters = sum(tensor.size for tensor in pocket_weights.values())
    assert parameters == 5_545_600
    assert sum(int(tensor.n_elements) for tensor in gguf_file.tensors) == parameters
    assert {tensor.dtype for tensor in pocket_weights.values()} == {np.dtype(np.float16)}


def test_rope_theta_stands_where_each_engine_looks_for_it(
    gguf_file: gguf.GGUFReader, pocket_config: dict[str, Any]
) -> None:
    theta = pocket_config["rope_theta"]
    assert theta == pocket_config["rope_parameters"]["rope_theta"]
    assert gguf_file.fields["llama.rope.freq_base"].contents() == theta


@pytest.mark.parametrize(
    ("field", "key"),
    [
        ("llama.block_count", "num_hidden_layers"),
        ("llama.embedding_length", "hidden_size"),
        ("llama.feed_forward_length", "intermediate_size"),
        ("llama.attention.head_count", "num_attention_heads"),
        ("llama.attention.head_count_kv", "num_key_value_heads"),
        ("llama.rope.dimension_count", "head_dim"),
        ("llama.expert_count", "num_local_experts"),
        ("llama.expert_used_count", "num_experts_per_tok"),
        ("llama.vocab_size", "vocab_size"),
        ("llama.context_length", "max_position_embeddings"),
        ("llama.context_length", "moe_watch_trained_length"),
        ("tokenizer.ggml.bos_token_id", "bos_token_id"),
        ("tokenizer.ggml.eos_token_id", "eos_token_id"),
    ],
)
def test_metadata_agrees(gguf_file: gguf.GGUFReader, pocket_config: dict[str, Any], field: str, key: str) -> None:
    assert gguf_file.fields[field].contents() == pocket_config[key]


def test_both_vocabularies_are_the_same(
    gguf_file: gguf.GGUFReader, tokenizer: Tokenizer, pocket_config: dict[str, Any]
) -> None:
    pieces = gguf_file.fields["tokenizer.ggml.tokens"].contents()
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    assert pieces == [tokenizer.id_to_token(token) for token in range(pocket_config["vocab_size"])]
    assert gguf_file.fields["tokenizer.ggml.merges"].contents() == [" ".join(merge) for merge in merges]


@pytest.mark.parametrize("text", TEXTS)
def test_every_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_a_text_begins_with_the_begin_token_unless_told_otherwise(
    tokenizer: Tokenizer, pocket_config: dict[str, Any], gguf_file: gguf.GGUFReader
) -> None:
    begun = tokenizer.encode("import os").ids
    assert begun == [pocket_config["bos_token_id"], *tokenizer.encode("import os", add_special_tokens=False).ids]
    assert gguf_file.fields["tokenizer.ggml.add_bos_token"].contents() is True


def test_pocket_is_small_enough_to_ship(pocket_folder: pathlib.Path) -> None:
    sizes = {path.name: path.stat().st_size for path in pocket_folder.iterdir()}
    assert {"model.safetensors", "pocket.gguf", "tokenizer.json", "provenance.json"} <= sizes.keys()
    assert sum(sizes.values()) < 40_000_000
