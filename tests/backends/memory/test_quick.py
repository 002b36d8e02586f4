"""Estimates from headers alone, against sizes worked out by hand from published configs."""

from __future__ import annotations

from pathlib import Path

import pytest

from moe_watch.backends.engine_sizes import EngineSizes, SizesItem
from moe_watch.backends.memory.ask import ask_engine
from moe_watch.backends.memory.kv_shape import config_shape, gguf_shape
from moe_watch.backends.memory.need import Need
from moe_watch.backends.memory.quick import estimate_folder, estimate_gguf
from moe_watch.backends.model_files.catalog import POCKET_FOLDER, POCKET_GGUF
from moe_watch.backends.model_files.config import read_config
from moe_watch.backends.model_files.gguf import GgufFile, read_gguf
from moe_watch.backends.model_files.preflight import read_tensor_tables
from moe_watch.backends.model_files.safetensors import TensorInfo
from moe_watch.backends.protocol import EngineOptions
from tests.backends.memory.full_size_models import write_model

MIB = 2**20
LATENT: dict[str, object] = {
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
    "hidden_size": 2048,
}
"""Widths of DeepSeek's latent attention."""


def header(architecture: str, **numbers: int) -> GgufFile:
    entries = {f"{architecture}.{key.replace('__', '.')}": value for key, value in numbers.items()}
    return GgufFile(Path("model.gguf"), {"general.architecture": architecture, **entries}, [])


def test_mixtral_keeps_128_kib_a_token():
    """32 layers × 8 heads × 128 numbers × keys and values × 2 bytes (arXiv:2401.04088, table 1)."""
    file = header("llama", block_count=32, attention__head_count=32, attention__head_count_kv=8, embedding_length=4096)
    shape = gguf_shape(file)
    assert shape is not None
    assert shape.bytes(1, 2) == 131_072
    assert shape.bytes(4096, 2) == 512 * MIB


def test_heads_wider_than_the_embedding_have_their_own_key():
    """Qwen3-30B-A3B: 48 layers × 4 heads × 128, although 2048 / 32 is 64."""
    file = header(
        "qwen3moe",
        block_count=48,
        attention__head_count=32,
        attention__head_count_kv=4,
        attention__key_length=128,
        attention__value_length=128,
        embedding_length=2048,
    )
    shape = gguf_shape(file)
    assert shape is not None
    assert shape.bytes(8192, 2) == 768 * MIB


def test_latent_attention_keeps_one_vector():
    """DeepSeek-V3: 61 layers × (512 + 64)."""
    shape = config_shape(LATENT | {"model_type": "deepseek_v3", "num_hidden_layers": 61, "num_attention_heads": 128})
    assert shape is not None
    assert shape.bytes(1000, 2) == 61 * 576 * 1000 * 2


def test_latent_attention_of_deepseek_v2_keeps_all_heads():
    """DeepSeek-V2-Lite in mlx-lm: 27 layers × 16 heads × (keys of 128 + 64, values of 128)."""
    shape = config_shape(LATENT | {"model_type": "deepseek_v2", "num_hidden_layers": 27, "num_attention_heads": 16})
    assert shape is not None
    assert shape.bytes(1000, 2) == 27 * 16 * (128 + 64 + 128) * 1000 * 2


@pytest.mark.parametrize(
    ("config", "layers"),
    [
        ({"layer_types": ["mamba", "mamba", "attention", "mamba"]}, [2]),  # Granite 4
        ({"layer_types": ["conv", "full_attention", "conv", "conv"]}, [1]),  # LFM2
        ({"layers_block_type": ["mamba", "attention", "mamba", "mamba"]}, [1]),
        ({"attn_layer_period": 2, "attn_layer_offset": 1}, [1, 3]),  # Jamba
        ({"hybrid_override_pattern": "ME*E"}, [2]),  # Nemotron-H
        ({"full_attention_interval": 4}, [3]),  # Qwen3-Next
        ({}, [0, 1, 2, 3]),
    ],
)
def test_only_layers_with_attention_have_a_cache(config, layers):
    shape = config_shape({"num_hidden_layers": 4, "num_attention_heads": 4, "head_dim": 8, **config})
    assert shape is not None
    assert [layer for layer, width in enumerate(shape.widths) if width] == layers


def test_chunked_attention_keeps_a_chunk():
    """Llama 4: three layers of four attend to a chunk."""
    kinds = ["chunked_attention"] * 3 + ["full_attention"]
    sizes = {"num_hidden_layers": 4, "num_attention_heads": 4, "head_dim": 8, "attention_chunk_size": 10}
    shape = config_shape({**sizes, "layer_types": kinds})
    assert shape is not None
    assert shape.bytes(100, 2) == 2 * 4 * 8 * 2 * (3 * 10 + 100)


def test_windows_and_linear_layers_keep_less():
    sliding = {
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "head_dim": 8,
        "layer_types": ["sliding_attention", "full_attention"],
        "sliding_window": 10,
    }
    shape = config_shape(sliding)
    assert shape is not None
    assert shape.bytes(100, 2) == 2 * 4 * 8 * 2 * (10 + 100)
    linear = {"num_hidden_layers": 8, "num_attention_heads": 4, "head_dim": 8, "full_attention_interval": 4}
    shape = config_shape(linear)
    assert shape is not None
    assert shape.bytes(100, 2) == 2 * (2 * 4 * 8 * 2 * 100)


@pytest.mark.parametrize(
    "config", [{}, {"num_hidden_layers": "many"}, {"num_hidden_layers": 10**9}, {"num_hidden_layers": 2}]
)
def test_a_config_without_a_shape_has_none(config):
    assert config_shape(config) is None


def test_pocket_in_both_formats():
    """6 layers × 2 heads × 32 × keys and values × 2048 tokens, in float32; weights in float16 on the disk."""
    kv = 6 * 2 * 32 * 2 * 2048 * 4
    file = read_gguf(POCKET_GGUF)
    found = estimate_gguf(file, sum(tensor.bytes for tensor in file.tensors), is_float32=True)
    assert (found.weights, found.kv, found.context) == (22_182_400, kv, 2048)
    assert found.overhead > 512 * 2048 * 4
    config, tensors = read_config(POCKET_FOLDER), read_tensor_tables(POCKET_FOLDER)
    on_cpu, on_gpu = (estimate_folder(config, tensors, on_cpu=each) for each in (True, False))
    assert (on_cpu.weights, on_cpu.kv) == (22_182_400, kv)
    assert (on_gpu.weights, on_gpu.kv) == (11_091_200, kv // 2)


def test_quantized_weights_are_not_cast():
    tensors = [TensorInfo("w", "U32", (10, 10), 400), TensorInfo("s", "F16", (10,), 20)]
    assert estimate_folder({}, tensors, on_cpu=True).weights == 420


def test_it_fits_up_to_the_last_byte():
    found = estimate_gguf(header("llama"), 1000)
    assert found.fits(found.total)
    assert not found.fits(found.total - 1)


@pytest.mark.parametrize("name", ["mixtral-8x7b", "qwen3-235b-a22b", "deepseek-v3", "gpt-oss-20b", "glm-4.5-air"])
def test_it_is_near_the_engines_own_sizes_at_full_size(tmp_path, name):
    """Within 2 % of llama.cpp's prediction for sparse files in the full size of published models."""
    path = write_model(name, tmp_path / "m.gguf")
    [sizes] = ask_engine("llama.cpp", [SizesItem(model=str(path), options=EngineOptions(threads=1))])
    assert isinstance(sizes, EngineSizes)
    file = read_gguf(path)
    found = estimate_gguf(file, sum(tensor.bytes for tensor in file.tensors))
    assert found.context == sizes.context
    assert found.kv == Need(sizes).kv
    assert found.total == pytest.approx(Need(sizes).total, rel=0.02)
