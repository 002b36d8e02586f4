"""Predicted sizes against llama.cpp's own, of models that are loaded."""

from __future__ import annotations

import os

import pytest

from moe_watch.backends.engine_sizes import EngineSizes, FailedSizes, SizesItem
from moe_watch.backends.memory.ask import ask_engine
from moe_watch.backends.memory.need import Need
from moe_watch.backends.memory.published_shapes import PUBLISHED
from moe_watch.backends.model_files.gguf import read_gguf
from moe_watch.backends.protocol import EngineOptions
from tests.backends import llama_files, tiny
from tests.backends.memory.full_size_models import DIALECTS, half_types, write_model
from tests.backends.memory.measured import measured_apart
from tests.backends.quantized import quantize_gguf

MIB = 2**20
WIDE = tiny.MIXTRAL | {"hidden_size": 256, "intermediate_size": 256}
"""Rows of 256, so that K-quants are possible."""


def sizes_of(path, **options) -> EngineSizes:
    [found] = ask_engine("llama.cpp", [SizesItem(model=str(path), options=EngineOptions(threads=1, **options))])
    assert isinstance(found, EngineSizes), found
    return found


def quantized(folder, kind):
    return quantize_gguf(llama_files.write_gguf(folder / "f32.gguf", WIDE), folder / f"{kind}.gguf", kind)


MADE = {
    "pocket": lambda _: "pocket",
    "mixtral": lambda folder: llama_files.write_gguf(folder / "m.gguf"),
    "mixtral F16": lambda folder: quantized(folder, "F16"),
    "mixtral Q8_0": lambda folder: quantized(folder, "Q8_0"),
    "mixtral Q4_0": lambda folder: quantized(folder, "Q4_0"),
    "mixtral Q4_K_M": lambda folder: quantized(folder, "Q4_K_M"),
    "mixtral Q2_K": lambda folder: quantized(folder, "Q2_K"),
    "qwen3moe": lambda folder: llama_files.write_gguf(folder / "m.gguf", llama_files.QWEN3),
    "qwen2moe, shared experts": lambda folder: llama_files.write_gguf(folder / "m.gguf", llama_files.QWEN2),
    "minimax-m2": lambda folder: llama_files.write_sigmoid(folder / "m.gguf"),
    "deepseek, dense layer": lambda folder: llama_files.write_scaled(folder / "m.gguf"),
    "gpt-oss, windows": lambda folder: llama_files.write_gpt_oss(folder / "m.gguf"),
}


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize(
    "options", [{}, {"context": 700, "kv_type": "q8_0", "batch": 64, "mmap": False}], ids=["default", "set"]
)
def test_the_prediction_is_what_llama_takes(tmp_path, name, options):
    """Weights, KV cache and compute buffers, each within 1 %."""
    path = MADE[name](tmp_path)
    if "kv_type" in options and name not in {"pocket", "mixtral Q4_K_M"}:
        options = options | {"kv_type": "f16"}  # heads of 16 numbers are no whole block of q8_0
    predicted = sizes_of(path, **options)
    need = Need(predicted)
    taken = measured_apart("llama.cpp", str(path), EngineOptions(threads=1, **options))
    assert need.weights - need.mapped == pytest.approx(taken.weights, rel=0.01)
    assert need.kv == pytest.approx(taken.kv, rel=0.01)
    assert need.compute == pytest.approx(taken.compute, rel=0.01)
    assert predicted.repacked == pytest.approx(taken.repacked, rel=0.01)
    assert (need.mapped == 0) == (options.get("mmap") is False or need.weights == predicted.repacked)
    assert taken.kv > 0 < taken.compute


def test_every_tensor_is_counted_once(tmp_path):
    path = quantized(tmp_path, "Q4_0")
    stored = sum(tensor.bytes for tensor in read_gguf(path).tensors)
    for options in ({}, {"mmap": False}):
        assert Need(sizes_of(path, **options)).weights == pytest.approx(stored, rel=0.001)


@pytest.mark.parametrize("name", sorted(DIALECTS.keys() - {"phi-3.5-moe"}))
def test_full_size_is_predicted_from_a_file_of_kilobytes(tmp_path, name):
    """Sparse files in the full size of published models; phimoe's tokenizer needs a real vocabulary."""
    path = write_model(name, tmp_path / "m.gguf")
    status = os.stat(path)
    assert status.st_blocks * 512 < 200_000 < 1_000_000_000 < status.st_size
    predicted = sizes_of(path, context=4096)
    tensors = read_gguf(path).tensors
    assert Need(predicted).weights == pytest.approx(sum(tensor.bytes for tensor in tensors), rel=1e-3)
    assert predicted.expert == sum(tensor.bytes for tensor in tensors if "_exps." in tensor.name)
    assert predicted.runtime < 300_000_000, "something was allocated"


@pytest.mark.parametrize(
    ("name", "mebibytes"),
    [
        ("mixtral-8x7b", 512),  # 32 layers × 8 heads × 128 × 2 × 4096 × 2 bytes
        ("qwen3-30b-a3b", 384),  # 48 × 4 × 128 × 2 × 4096 × 2
        ("deepseek-v2-lite", 121.5),  # 27 × 576 × 4096 × 2: one latent vector and one rotated key
        ("gpt-oss-20b", 192),  # 24 × 8 × 64 × 2 × 4096 × 2: windows do not shorten llama.cpp's cache at 4,096 tokens
    ],
)
def test_known_sizes_of_the_cache(tmp_path, name, mebibytes):
    predicted = sizes_of(write_model(name, tmp_path / "m.gguf"), context=4096)
    assert Need(predicted).kv == mebibytes * MIB


def test_the_published_shape_has_the_cache_of_the_engine(tmp_path):
    for name in ("mixtral-8x7b", "qwen3-235b-a22b", "deepseek-v3", "glm-4.5-air", "gpt-oss-20b"):
        predicted = sizes_of(write_model(name, tmp_path / f"{name}.gguf"), context=4096)
        assert Need(predicted).kv == PUBLISHED[name].kv_bytes(4096), name


def test_half_precision_is_not_repacked(tmp_path):
    predicted = sizes_of(write_model("olmoe-1b-7b", tmp_path / "m.gguf", types=half_types))
    assert predicted.repacked == 0
    assert Need(predicted).mapped > 13e9


def test_settings_move_what_they_name(tmp_path):
    path = write_model("mixtral-8x7b", tmp_path / "m.gguf")
    base, short, small, narrow = (
        Need(sizes_of(path, **options))
        for options in (
            {"context": 8192},
            {"context": 2048},
            {"context": 8192, "kv_type": "q8_0"},
            {"context": 8192, "micro_batch": 64},
        )
    )
    assert short.kv * 4 == base.kv
    assert small.kv == base.kv * 34 // 64, "q8_0 takes 34 bytes for 32 numbers"
    assert narrow.compute < base.compute / 2
    assert {each.weights for each in (base, short, small, narrow)} == {base.weights}


def test_a_refused_option_is_told_with_its_advice(tmp_path):
    path = llama_files.write_gguf(tmp_path / "m.gguf")
    good, bad = ask_engine(
        "llama.cpp",
        [
            SizesItem(model=str(path), options=EngineOptions(threads=1)),
            SizesItem(model=str(path), options=EngineOptions(threads=1, context=10**6)),
        ],
    )
    assert isinstance(good, EngineSizes)
    assert isinstance(bad, FailedSizes)
    assert bad.what == "--context is 1000000"
