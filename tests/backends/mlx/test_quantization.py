"""The header's quantization follows the tensors, and a wrong claim of the files is a warning."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest
from mlx_lm.utils import quantize_model, save_model

from moe_watch.backends.engine import Engine
from moe_watch.backends.mlx.quantization import quantization_of
from moe_watch.backends.model_files.safetensors import TensorInfo
from moe_watch.backends.model_files.stored_types import stored_quantization
from tests.backends import tiny
from tests.backends.conftest import load_folder


def opened(folder: pathlib.Path, **entries: Any) -> Engine:
    """With other entries in config.json; None takes one out."""
    config = json.loads((folder / "config.json").read_text()) | entries
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return load_folder(folder)


@pytest.mark.parametrize(
    ("claim", "said"),
    [
        ({"quantization": {"group_size": 64, "bits": 4}}, "4-bit affine, groups of 64"),
        ({"quantization_config": {"quant_method": "mxfp4"}}, "mxfp4"),
    ],
)
def test_a_claim_without_a_quantised_tensor_is_not_believed(
    claim: dict[str, Any], said: str, tmp_path: pathlib.Path
) -> None:
    engine = opened(tiny.write_model(tmp_path / "m"), **claim)
    assert engine.model.quantization is None
    assert engine.model.parameters == engine.model.bytes // 4
    assert engine.warnings == [f"config.json names a quantization ({said}), but the weights are not quantized"]


def test_other_bits_than_were_claimed_are_named(tmp_path: pathlib.Path) -> None:
    folder = tiny.write_model(tmp_path / "m", bits=8)
    engine = opened(folder, quantization={"group_size": 32, "bits": 4}, quantization_config=None)
    assert engine.model.quantization == "8-bit affine, groups of 32"
    assert engine.warnings == [
        "config.json names a quantization (4-bit affine, groups of 32), but the weights are 8-bit affine, groups of 32"
    ]


def test_modules_that_are_stored_otherwise_are_counted(tmp_path: pathlib.Path) -> None:
    """One of 4 bits more, and one left whole; the config need not say so."""
    model = tiny.random_model(tiny.MIXTRAL)

    def predicate(path: str, _: Any) -> bool | dict[str, int]:
        if path.endswith("layers.0.block_sparse_moe.gate"):
            return {"group_size": 32, "bits": 8}
        return not path.endswith("layers.1.block_sparse_moe.gate")

    model, config = quantize_model(model, tiny.MIXTRAL, group_size=32, bits=4, quant_predicate=predicate)
    folder = tmp_path / "m"
    folder.mkdir()
    save_model(folder, model)
    plain = {"group_size": 32, "bits": 4, "mode": "affine"}
    (folder / "config.json").write_text(json.dumps(config | {"quantization": plain, "quantization_config": plain}))
    tiny.write_tokenizer(folder)
    engine = load_folder(folder)
    assert engine.model.quantization == ("4-bit affine, groups of 32; 1 modules 8-bit; 1 modules not quantized")
    assert engine.warnings == []


MODELOPT = {"quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8", "group_size": 16}}
MODELOPTS = {
    "as ModelOpt writes it": {"producer": {"name": "modelopt", "version": "0.29.0"}, **MODELOPT},
    "with the method that mlx-lm demands": {"quant_method": "modelopt", **MODELOPT},
}


@pytest.fixture(params=MODELOPTS)
def modelopt(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> pathlib.Path:
    """As NVIDIA ModelOpt writes it: the quantization is in a separate file."""
    model = tiny.random_model(tiny.MIXTRAL)
    model, _ = quantize_model(model, tiny.MIXTRAL, group_size=16, bits=4, mode="nvfp4")
    folder = tmp_path / "m"
    folder.mkdir()
    save_model(folder, model)
    (folder / "config.json").write_text(json.dumps(tiny.MIXTRAL))
    (folder / "hf_quant_config.json").write_text(json.dumps(MODELOPTS[request.param]))
    tiny.write_tokenizer(folder)
    return folder


def test_modelopts_own_file_is_seen(modelopt: pathlib.Path) -> None:
    engine = load_folder(modelopt)
    assert engine.model.quantization == "4-bit nvfp4, groups of 16"
    assert engine.warnings == ["hf_quant_config.json names the quantization (NVFP4), config.json does not"]


@pytest.mark.parametrize("written", MODELOPTS)
def test_modelopts_own_file_is_not_believed_either(written: str, tmp_path: pathlib.Path) -> None:
    folder = tiny.write_model(tmp_path / "m")
    (folder / "hf_quant_config.json").write_text(json.dumps(MODELOPTS[written]))
    engine = load_folder(folder)
    assert engine.model.quantization is None
    assert engine.warnings == ["hf_quant_config.json names a quantization (NVFP4), but the weights are not quantized"]


def test_a_damaged_file_of_modelopt_claims_nothing(tmp_path: pathlib.Path) -> None:
    folder = tiny.write_model(tmp_path / "m", bits=4)
    (folder / "hf_quant_config.json").write_text("[" * 100_000)
    assert load_folder(folder).warnings == []


def tensors(**sizes: int) -> list[TensorInfo]:
    return [TensorInfo(f"w{n}", dtype, (size,), size) for n, (dtype, size) in enumerate(sizes.items())]


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"BF16": 100, "F32": 10}, None),
        ({"BF16": 100, "I64": 10}, None),
        ({"F8_E4M3": 90, "F32": 10}, "fp8 (E4M3)"),
        ({"BF16": 10, "F8_E4M3": 30, "U8": 60}, "packed into U8, fp8 (E4M3)"),
        ({"BF16": 100, "U8": 1}, None),
        ({"F16": 30, "I32": 70}, "packed into I32"),
        ({}, None),
    ],
)
def test_types_of_a_checkpoint(sizes: dict[str, int], said: str | None) -> None:
    assert stored_quantization(tensors(**sizes)) == said


def test_weights_that_are_unpacked_while_loading_are_said_to_be() -> None:
    """mlx-lm multiplies DeepSeek's fp8 weights by their scales and continues in bfloat16."""
    model = tiny.random_model(tiny.MIXTRAL)
    assert quantization_of(model, tensors(F8_E4M3=90, F32=10)) == "fp8 (E4M3), unpacked while loading"
