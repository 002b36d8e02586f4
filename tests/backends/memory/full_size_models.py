"""GGUF files in the full size of published models, with random weights: real files, or sparse files of kilobytes.

    python -m tests.backends.memory.full_size_models mixtral-8x7b OUT.gguf --vocabulary VOCABULARY.gguf

A sparse file has the header of the real one and no data: an engine that allocates nothing reads no more of it. The
vocabularies are in llama.cpp's source archive, as models/ggml-vocab-*.gguf.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Kind

from moe_watch.backends.memory.published_shapes import (
    PUBLISHED,
    Attention,
    LatentAttention,
    LinearAttention,
    Named,
    PublishedShape,
)
from moe_watch.backends.memory.quantization_mix import BLOCKS, tensor_bytes

Bytes = npt.NDArray[np.uint8]
TypeOf = Callable[[str, tuple[int, ...]], str]

POOL = 1 << 18
"""Number of random blocks; a tensor is composed of runs of them."""
FEW_TOKENS = 512
"""Vocabulary of a sparse file without a real one."""
LONGEST = 32768
"""Tokens of context in the metadata."""


@dataclass(frozen=True)
class Dialect:
    """Names of one architecture in llama.cpp."""

    architecture: str
    renamed: dict[str, str] = dataclasses.field(default_factory=dict)
    """Names of tensors that differ from `PublishedShape`."""


DIALECTS: dict[str, Dialect] = {
    "mixtral-8x7b": Dialect("llama"),
    "mixtral-8x22b": Dialect("llama"),
    "qwen3-30b-a3b": Dialect("qwen3moe"),
    "qwen3-235b-a22b": Dialect("qwen3moe"),
    "qwen3-coder-next": Dialect("qwen3next", {"ffn_norm": "post_attention_norm"}),
    "olmoe-1b-7b": Dialect("olmoe"),
    "deepseek-v2-lite": Dialect("deepseek2"),
    "deepseek-v3": Dialect("deepseek2"),
    "gpt-oss-20b": Dialect("gpt-oss", {"ffn_norm": "post_attention_norm"}),
    "gpt-oss-120b": Dialect("gpt-oss", {"ffn_norm": "post_attention_norm"}),
    "glm-4.5-air": Dialect("glm4moe", {"ffn_norm": "post_attention_norm"}),
    "phi-3.5-moe": Dialect("phimoe"),
    "llama-4-scout": Dialect("llama4"),
}


def small_types(name: str, shape: tuple[int, ...]) -> str:
    """Return types with which full-size files are small: experts Q2_K, other matrices Q4_0."""
    if len(shape) < 2 or ".bias" in name or "ffn_gate_inp" in name or "ssm_conv1d" in name:
        return "F32"
    wanted = "Q2_K" if "_exps." in name else "Q4_0"
    return wanted if shape[0] % BLOCKS[wanted][0] == 0 else "Q4_0"


def half_types(name: str, shape: tuple[int, ...]) -> str:
    """Return the types of a file in float16, from which llama.cpp quantizes."""
    return "F32" if small_types(name, shape) == "F32" else "F16"


def write_model(
    name: str,
    path: Path,
    *,
    types: TypeOf = small_types,
    sparse: bool = True,
    vocabulary: Path | None = None,
    layers: int | None = None,
) -> Path:
    """Write a file and return its path.

    Args:
        name: key of `PUBLISHED`.
        path: path of the file.
        types: function from a tensor's name and shape to its type.
        sparse: leave out the data.
        vocabulary: GGUF file with the vocabulary; without it the model has `FEW_TOKENS` tokens.
        layers: number of layers, if not all.
    """
    shape, dialect = PUBLISHED[name], DIALECTS[name]
    writer = gguf.GGUFWriter(path, dialect.architecture)
    tokens = _few_tokens(writer) if vocabulary is None else _copy_vocabulary(writer, vocabulary)
    shape = dataclasses.replace(shape, vocabulary=tokens, layers=layers or shape.layers)
    writer.add_name(f"{shape.title}, random weights")
    _add_shape(writer, shape)
    tensors = [(_renamed(name, dialect), dimensions) for name, dimensions in shape.tensors]
    for tensor, dimensions in tensors:
        _add_tensor(writer, tensor, dimensions, types(tensor, dimensions))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if sparse:
        _leave_room(writer, tensors, types)
    else:
        _write_data(writer, tensors, types)
    writer.close()
    return path


def _renamed(name: str, dialect: Dialect) -> str:
    part = name.split(".")[-2]
    return name.replace(f"{part}.", f"{dialect.renamed.get(part, part)}.")


# -- metadata


def _few_tokens(writer: gguf.GGUFWriter) -> int:
    """Add one token per byte, and some more; return their number."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"<{token}>" for token in range(FEW_TOKENS)])
    writer.add_token_types([gguf.TokenType.NORMAL] * FEW_TOKENS)
    writer.add_token_merges(["< 1"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    return FEW_TOKENS


def _copy_vocabulary(writer: gguf.GGUFWriter, path: Path) -> int:
    """Copy the tokenizer of a file; return its number of tokens."""
    count = 0
    for field in gguf.GGUFReader(path).fields.values():
        if not field.name.startswith("tokenizer.") or field.name == "tokenizer.chat_template":
            continue
        value = field.contents()
        if field.types[0] == gguf.GGUFValueType.ARRAY:
            writer.add_array(field.name, value)
        else:
            writer.add_key_value(field.name, value, field.types[0])
        if field.name.endswith("ggml.tokens"):
            count = len(value)
    return count


def _add_shape(writer: gguf.GGUFWriter, shape: PublishedShape) -> None:
    experts, attention = shape.experts, shape.attention
    writer.add_context_length(LONGEST)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.dense_width or experts.width)
    writer.add_head_count(attention.heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_layer_norm_eps(1e-5)
    writer.add_rope_freq_base(1e6)
    writer.add_expert_count(experts.count)
    writer.add_expert_used_count(experts.used)
    if writer.arch != "llama":
        writer.add_expert_feed_forward_length(experts.width)
    writer.add_vocab_size(shape.vocabulary)
    if isinstance(attention, Attention):
        writer.add_head_count_kv(attention.kv_heads)
        writer.add_key_length(attention.width)
        writer.add_value_length(attention.width)
        writer.add_rope_dimension_count(attention.width)
    else:
        _add_latent(writer, attention)
    if experts.shared:
        writer.add_expert_shared_count(2 if writer.arch == "deepseek2" and shape.dense == 1 else 1)
        writer.add_expert_shared_feed_forward_length(experts.shared)
    if shape.dense:
        writer.add_leading_dense_block_count(shape.dense)
    if experts.has_selection_bias:
        writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    if shape.window:
        writer.add_sliding_window(shape.window)
    if writer.arch == "llama4":
        writer.add_interleave_moe_layer_step(1)
    if shape.linear is not None:
        _add_linear(writer, shape.linear)


def _add_latent(writer: gguf.GGUFWriter, attention: LatentAttention) -> None:
    writer.add_head_count_kv(1)
    writer.add_key_length(attention.latent + attention.rotated)
    writer.add_value_length(attention.latent)
    writer.add_key_length_mla(attention.plain + attention.rotated)
    writer.add_value_length_mla(attention.values)
    writer.add_kv_lora_rank(attention.latent)
    if attention.query_latent:
        writer.add_q_lora_rank(attention.query_latent)
    writer.add_rope_dimension_count(attention.rotated)
    writer.add_expert_weights_scale(1.0)


def _add_linear(writer: gguf.GGUFWriter, linear: LinearAttention) -> None:
    writer.add_ssm_conv_kernel(linear.kernel)
    writer.add_ssm_state_size(linear.width)
    writer.add_ssm_group_count(linear.key_heads)
    writer.add_ssm_time_step_rank(linear.value_heads)
    writer.add_ssm_inner_size(linear.value_heads * linear.width)
    writer.add_uint32(f"{writer.arch}.full_attention_interval", linear.every)


# -- data


def _add_tensor(writer: gguf.GGUFWriter, name: str, shape: tuple[int, ...], kind: str) -> None:
    elements, size = BLOCKS[kind]
    rows = tuple(reversed(shape[1:]))
    length = tensor_bytes(shape, kind)
    if kind == "F32":
        writer.add_tensor_info(name, (*rows, shape[0]), np.dtype(np.float32), length)
    elif kind == "F16":
        writer.add_tensor_info(name, (*rows, shape[0]), np.dtype(np.float16), length)
    else:
        row = shape[0] // elements * size
        writer.add_tensor_info(name, (*rows, row), np.dtype(np.uint8), length, raw_dtype=Kind[kind])


def _leave_room(writer: gguf.GGUFWriter, tensors: list[Named], types: TypeOf) -> None:
    """Extend the file by its data without writing any."""
    [file] = writer.fout or []
    file.flush()
    length = _aligned(file.tell()) + sum(_aligned(tensor_bytes(shape, types(name, shape))) for name, shape in tensors)
    file.truncate(length)


def _aligned(length: int) -> int:
    return -(-length // gguf.GGUF_DEFAULT_ALIGNMENT) * gguf.GGUF_DEFAULT_ALIGNMENT


def _write_data(writer: gguf.GGUFWriter, tensors: list[Named], types: TypeOf) -> None:
    random = np.random.default_rng(0)
    pools = {"Q2_K": _q2_k(random), "Q4_0": _q4_0(random)}
    for name, shape in tensors:
        kind = types(name, shape)
        if kind == "F32":
            is_norm = "norm" in name
            data = np.ones(shape[::-1], np.float32) if is_norm else random.standard_normal(shape[::-1], np.float32) / 20
            writer.write_tensor_data(data)
        else:
            writer.write_tensor_data(_blocks(random, pools[kind], tensor_bytes(shape, kind) // BLOCKS[kind][1]))


def _blocks(random: np.random.Generator, pool: Bytes, count: int) -> Bytes:
    """Return this number of blocks, in runs from random places of the pool."""
    runs = []
    while count:
        start = int(random.integers(0, len(pool) - 1))
        runs.append(pool[start : start + count])
        count -= len(runs[-1])
    return np.concatenate(runs)


def _q2_k(random: np.random.Generator) -> Bytes:
    """Return random blocks of Q2_K: scales and quants, then two half-precision scales."""
    blocks = random.integers(0, 256, (POOL, 84), np.uint8)
    blocks[:, 80:84] = np.array([0.002, 0.003], np.float16).view(np.uint8)
    return blocks


def _q4_0(random: np.random.Generator) -> Bytes:
    """Return random blocks of Q4_0: a half-precision scale, then quants."""
    blocks = random.integers(0, 256, (POOL, 18), np.uint8)
    blocks[:, :2] = np.array([0.02 / 4.6], np.float16).view(np.uint8)
    return blocks


def main() -> None:
    """Write one file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", choices=sorted(DIALECTS))
    parser.add_argument("output", type=Path)
    parser.add_argument("--vocabulary", type=Path, help="GGUF file with a vocabulary")
    parser.add_argument("--sparse", action="store_true", help="leave out the data")
    arguments = parser.parse_args()
    written = write_model(arguments.name, arguments.output, sparse=arguments.sparse, vocabulary=arguments.vocabulary)
    sys.stdout.write(f"{written}: {written.stat().st_size / 1e9:.1f} GB\n")


if __name__ == "__main__":
    main()
