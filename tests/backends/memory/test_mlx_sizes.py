"""Predicted sizes against MLX's own counters, of models that are loaded and fill their context."""

from __future__ import annotations

import mlx.core as mx
import pytest

from moe_watch.backends.engine_sizes import EngineSizes, SizesItem
from moe_watch.backends.memory.ask import ask_engine
from moe_watch.backends.memory.need import Need
from moe_watch.backends.protocol import EngineOptions
from tests.backends import tiny
from tests.backends.memory.measured import measured_apart, peak_of

WIDER = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "max_position_embeddings": 8192}


def folder(path, family=tiny.MIXTRAL, *, dtype=mx.float32, bits=None):
    return str(tiny.write_model(path / "model", family | WIDER, dtype=dtype, bits=bits))


MADE = {
    "pocket": lambda _: "pocket",
    "mixtral": lambda path: folder(path),
    "mixtral, float16": lambda path: folder(path, dtype=mx.float16),
    "mixtral, 4-bit": lambda path: folder(path, dtype=mx.float16, bits=4),
    "qwen3_moe": lambda path: folder(path, tiny.QWEN3),
    "qwen2_moe": lambda path: folder(path, tiny.QWEN2),
    "glm4_moe": lambda path: folder(path, tiny.GLM4),
    "Klear": lambda path: folder(path, tiny.KLEAR),
}


@pytest.mark.parametrize("name", MADE)
def test_the_prediction_is_what_mlx_takes(tmp_path, name):
    """Weights and KV cache within 1 %, the peak counter within 10 %."""
    # On the CPU, MLX multiplies 4-bit weights by float16 numbers one by one.
    model, options = MADE[name](tmp_path), EngineOptions(context=256 if "4-bit" in name else 1024)
    [predicted] = ask_engine("mlx", [SizesItem(model=model, options=options)])
    assert isinstance(predicted, EngineSizes)
    taken = measured_apart("mlx", model, options)
    need = Need(predicted)
    assert need.weights == pytest.approx(taken.weights, rel=0.01)
    assert need.kv == pytest.approx(taken.kv, rel=0.01)
    assert peak_of(predicted) == pytest.approx(taken.peak, rel=0.10)


def test_half_precision_takes_twice_its_files_on_the_cpu(tmp_path):
    model = folder(tmp_path, dtype=mx.float16)
    [predicted] = ask_engine("mlx", [SizesItem(model=model, options=EngineOptions(context=512))])
    assert isinstance(predicted, EngineSizes)
    stored = sum(file.stat().st_size for file in (tmp_path / "model").glob("*.safetensors"))
    assert Need(predicted).weights == pytest.approx(2 * stored, rel=0.01)
    assert predicted.loading > Need(predicted).weights
