"""Facts about a model: sizes from its files' headers, and the position encoding that mlx-lm would miss."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from moe_watch.backends.model_files.config import (
    context_length,
    quantization,
    rope_overrides,
    rope_warnings,
    trained_length,
)
from moe_watch.backends.model_files.preflight import read_tensor_tables
from moe_watch.backends.model_files.safetensors import TensorInfo
from moe_watch.backends.model_files.sizes import fingerprint, weight_facts
from moe_watch.backends.protocol import EngineOptions
from moe_watch.routing.errors import UserError
from tests.backends import tiny
from tests.backends.conftest import load_folder

Changed = Callable[..., pathlib.Path]


def test_sizes_add_up(mixtral_folder: pathlib.Path) -> None:
    facts = weight_facts(tiny.MIXTRAL, read_tensor_tables(mixtral_folder))
    weights = [weight for _, weight in tree_flatten(tiny.random_model(tiny.MIXTRAL).parameters())]
    assert facts.bytes == sum(weight.nbytes for weight in weights)
    assert facts.parameters == sum(weight.size for weight in weights)
    assert facts.expert_bytes == dict.fromkeys((0, 1), 3 * 64 * 64 * 4)
    assert facts.non_expert_bytes == facts.bytes - 2 * 4 * 3 * 64 * 64 * 4


def test_experts_one_by_one_and_stacked_weigh_the_same() -> None:
    block = "model.layers.3.block_sparse_moe"
    apart = [
        TensorInfo(f"{block}.experts.{expert}.w{w}.weight", "F16", (2, 4), 16) for expert in range(4) for w in (1, 2, 3)
    ]
    stacked = [TensorInfo(f"{block}.switch_mlp.{name}.weight", "F16", (4, 2, 4), 64) for name in ("up", "gate", "down")]
    shared = [TensorInfo("model.layers.3.mlp.shared_experts.up_proj.weight", "F16", (2, 4), 16)]
    config = {"num_local_experts": 4}
    for tensors in (apart, stacked):
        facts = weight_facts(config, tensors + shared)
        assert (facts.expert_bytes, facts.non_expert_bytes) == ({3: 48}, 16)


def test_what_cannot_be_told_is_absent() -> None:
    uneven = [TensorInfo("model.layers.0.mlp.experts.up", "U8", (13,), 13)]
    facts = weight_facts({"num_experts": 4, "quantization": {"bits": 4}}, uneven)
    assert (facts.expert_bytes, facts.non_expert_bytes, facts.parameters) == ({}, None, None)
    dense = weight_facts({"num_experts": 4}, [TensorInfo("lm_head.weight", "F16", (2,), 4)])
    assert (dense.expert_bytes, dense.non_expert_bytes) == ({}, None)


def test_the_fingerprint_names_metadata_and_shapes() -> None:
    a, b = TensorInfo("a", "F16", (2,), 4), TensorInfo("b", "F16", (3,), 6)
    same = fingerprint({"x": 1, "y": 2}, [a, b])
    assert same == fingerprint({"y": 2, "x": 1}, [b, a])
    others = [fingerprint({"x": 1, "y": 3}, [a, b]), fingerprint({"x": 1, "y": 2}, [a]), fingerprint({}, [])]
    assert len({same, *others}) == 4


def test_a_model_describes_itself(mixtral_folder: pathlib.Path) -> None:
    engine = load_folder(mixtral_folder)
    model = engine.model
    assert (model.name, model.architecture, model.layers) == ("mixtral", "mixtral", [0, 1])
    assert (model.experts, model.experts_per_token, model.gate) == (4, 2, "top_k_softmax")
    assert (model.expert_bytes, model.quantization) == ([3 * 64 * 64 * 4] * 2, None)
    assert (model.context_length, engine.context_length, model.trained_length) == (2048, 2048, None)
    assert len(model.fingerprint) == 64
    assert (engine.backend.name, engine.backend.dtype, engine.warnings) == ("mlx", "float32", [])
    assert "mlx-lm 0." in engine.backend.version


@pytest.mark.parametrize(("dtype", "name"), [(mx.float16, "float16"), (mx.bfloat16, "bfloat16")])
@pytest.mark.skipif(mx.default_device() != mx.Device(mx.cpu), reason="a GPU computes in half precision")
def test_half_precision_is_computed_in_float32_on_the_cpu(tmp_path: pathlib.Path, dtype: mx.Dtype, name: str) -> None:
    engine = load_folder(tiny.write_model(tmp_path / "m", dtype=dtype))
    assert engine.backend.dtype == f"float32 (stored as {name})"
    assert engine.model.bytes == engine.model.parameters * 2
    assert sum(routing.tokens for routing in engine.prefill([2, 3, 4], lambda _: None)) == 3


def test_a_packed_model_counts_its_parameters(tmp_path: pathlib.Path) -> None:
    packed = load_folder(tiny.write_model(tmp_path / "m", bits=4))
    whole = sum(weight.size for _, weight in tree_flatten(tiny.random_model(tiny.MIXTRAL).parameters()))
    assert packed.model.parameters == pytest.approx(whole, rel=0.01)
    assert packed.model.bytes < whole


def test_what_a_config_leaves_out_is_said(mixtral_folder: pathlib.Path, changed: Changed) -> None:
    engine = load_folder(changed(mixtral_folder, max_position_embeddings=None))
    assert engine.model.context_length is None
    assert engine.context_length > 10**9
    assert [warning.split(":")[0] for warning in engine.warnings] == ["config.json has no context length"]


def test_progress_reaches_the_end(mixtral_folder: pathlib.Path) -> None:
    from moe_watch.backends.mlx.engine import load
    from moe_watch.backends.model_files import catalog

    steps = []
    engine = load(catalog.locate(str(mixtral_folder)), options=EngineOptions(), progress=steps.append)
    assert {(step.stage, step.unit, step.total) for step in steps} == {("loading", "bytes", engine.model.bytes)}
    assert [steps[0].done, steps[-1].done] == [0, engine.model.bytes]


# -- the position encoding


def test_rope_theta_is_found_where_transformers_5_writes_it(mixtral_folder: pathlib.Path, changed: Changed) -> None:
    """mlx-lm's own fallback for Mixtral is 1e6: plausible text, other experts."""
    folder = changed(mixtral_folder, rope_theta=None, rope_parameters={"rope_theta": 500.0, "rope_type": "default"})
    engine = load_folder(folder)
    assert engine._loaded.model.args.rope_theta == 500.0
    assert engine.warnings == []


def test_a_contradiction_about_rope_theta_is_said(mixtral_folder: pathlib.Path, changed: Changed) -> None:
    engine = load_folder(changed(mixtral_folder, rope_parameters={"rope_theta": 500.0, "rope_type": "default"}))
    assert engine._loaded.model.args.rope_theta == 10_000.0
    assert engine.warnings == ["config.json has rope_theta 10000.0 and, in rope_parameters, 500.0: 10000.0 is used"]


def test_rope_entries_that_are_lifted() -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    lifted = {"rope_theta": 1e4, "partial_rotary_factor": 0.5, "rope_scaling": yarn | {"type": "yarn"}}
    assert rope_overrides({"rope_parameters": yarn}) == lifted
    assert rope_overrides({"text_config": {"a": 1, "rope_parameters": yarn}}) == {
        "text_config": {"a": 1, "rope_parameters": yarn} | lifted
    }
    assert rope_overrides({"rope_theta": 5.0, "rope_parameters": {"rope_theta": 5.0}}) == {}
    assert rope_overrides({"rope_parameters": {"full_attention": {"rope_theta": 5.0}}}) == {}
    assert rope_overrides({"rope_theta": 5.0}) == {}
    assert rope_warnings({"rope_theta": 5.0, "rope_parameters": {"rope_theta": 5.0}}) == []


# -- other names


def test_lengths_and_quantization_under_other_names() -> None:
    assert context_length({"text_config": {"max_position_embeddings": 7}}) == 7
    assert context_length({"vision_config": {"max_position_embeddings": 7}}) is None
    assert trained_length({"rope_scaling": {"original_max_position_embeddings": 9}}) == 9
    assert trained_length({"moe_watch_trained_length": 5, "max_position_embeddings": 10}) == 5
    assert quantization({"quantization": {"bits": 4, "group_size": 64}}) == "4-bit affine, groups of 64"
    mixed = {"bits": 4, "group_size": 64, "a.gate": {"bits": 8}, "b.gate": {"bits": 8}, "c": {"bits": 4}, "d": False}
    said = "4-bit affine, groups of 64; 2 modules 8-bit; 1 modules not quantized"
    assert quantization({"quantization": mixed}) == said
    assert quantization({"quantization_config": {"quant_method": "mxfp4"}}) == "mxfp4"
    assert quantization({}) is None


def test_a_reason_that_goes_on_in_further_lines(mixtral_folder: pathlib.Path, changed: Changed) -> None:
    with pytest.raises(UserError, match=r"cannot load .+ \(Received \d+ parameters not in model\): try a newer"):
        load_folder(changed(mixtral_folder, num_hidden_layers=1))
