"""Pruned model folders, tensor by tensor, read with the `safetensors` package."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from moe_watch.backends.model_files.config import read_config
from moe_watch.backends.model_files.safetensors import read_safetensors
from moe_watch.backends.prune_record import record_of_config
from moe_watch.backends.pruning.pruner import prunable_location, read_prunable_model
from moe_watch.routing.errors import UserError
from tests.backends import tiny
from tests.backends.conftest import load_folder
from tests.backends.pruning.pruned_files import Kept, mask_of, prune

Arrays = dict[str, np.ndarray]
KEPT: Kept = {0: [0, 3], 1: [1, 2]}
IDS = [tiny.BOS, *b"A pruned model selects among fewer experts."]


def write(folder: pathlib.Path, tensors: Arrays, config: dict[str, Any] | None = None, **settings: Any) -> pathlib.Path:
    """A folder with these tensors; no library loads it."""
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps((config or tiny.MIXTRAL) | settings))
    tiny.write_tokenizer(folder)
    return folder


def numbers(*shape: int, start: int = 0, dtype: type = np.float32) -> np.ndarray:
    return (np.arange(np.prod(shape)) + start).reshape(shape).astype(dtype)


def gpt_oss(dtype: type = np.uint8) -> Arrays:
    """Names of the published gpt-oss: MXFP4 blocks and scales of all experts, biases, a router with a bias."""
    found: Arrays = {"model.embed_tokens.weight": numbers(8, 4)}
    for layer in KEPT:
        block = f"model.layers.{layer}.mlp"
        found |= {
            f"{block}.experts.gate_up_proj_blocks": numbers(4, 6, 2, 16, start=layer, dtype=dtype),
            f"{block}.experts.gate_up_proj_scales": numbers(4, 6, 2, start=layer, dtype=dtype),
            f"{block}.experts.gate_up_proj_bias": numbers(4, 6, start=layer),
            f"{block}.experts.down_proj_blocks": numbers(4, 3, 2, 16, start=layer, dtype=dtype),
            f"{block}.experts.down_proj_scales": numbers(4, 3, 2, start=layer, dtype=dtype),
            f"{block}.experts.down_proj_bias": numbers(4, 3, start=layer),
            f"{block}.router.weight": numbers(4, 3, start=layer),
            f"{block}.router.bias": numbers(4, start=layer),
            f"model.layers.{layer}.self_attn.q_proj.weight": numbers(3, 3),
        }
    return found


def test_stacked_experts_are_sliced(tmp_path: pathlib.Path) -> None:
    whole = write(tmp_path / "whole", gpt_oss())
    prune(whole, tmp_path / "pruned", KEPT)
    after = load_file(tmp_path / "pruned/model.safetensors")
    for name, array in gpt_oss().items():
        is_cut = ".experts." in name or ".router." in name
        expected = array[KEPT[int(name.split(".")[2])]] if is_cut else array
        np.testing.assert_array_equal(after.pop(name), expected)
    assert not after
    assert read_safetensors(tmp_path / "pruned/model.safetensors").metadata == {"format": "pt"}


def test_single_experts_are_renumbered(tmp_path: pathlib.Path) -> None:
    tensors: Arrays = {}
    for layer in KEPT:
        block = f"model.layers.{layer}.mlp"
        tensors[f"{block}.gate.weight"] = numbers(4, 3)
        for expert in range(4):
            tensors[f"{block}.experts.{expert}.up_proj.weight"] = numbers(2, 3, start=100 * expert + layer)
            tensors[f"{block}.experts.{expert}.up_proj.weight_scale_inv"] = numbers(1, 1, start=100 * expert)
    prune(write(tmp_path / "whole", tensors), tmp_path / "pruned", KEPT)
    after = load_file(tmp_path / "pruned/model.safetensors")
    assert len(after) == 2 * (1 + 2 * 2)
    for layer, kept in KEPT.items():
        for place, expert in enumerate(kept):
            for rest in ("up_proj.weight", "up_proj.weight_scale_inv"):
                prefix = f"model.layers.{layer}.mlp.experts"
                np.testing.assert_array_equal(after[f"{prefix}.{place}.{rest}"], tensors[f"{prefix}.{expert}.{rest}"])


@pytest.mark.parametrize("bits", [4, 8])
def test_quantized_folders_equal_the_masked_one(tmp_path: pathlib.Path, bits: int) -> None:
    whole = tiny.write_model(tmp_path / "whole", bits=bits)
    prune(whole, tmp_path / "pruned", KEPT)
    before, after = load_folder(whole), load_folder(tmp_path / "pruned")
    assert after.model.expert_ids == [KEPT[0], KEPT[1]]
    masked, pruned = before.scorer(64, usage=False, saliency=False), after.scorer(64, usage=False, saliency=False)
    unmasked = np.concatenate([batch.logits for batch in masked.evaluate(IDS)])
    masked.mask(mask_of(KEPT, 4))
    expected = np.concatenate([batch.logits for batch in masked.evaluate(IDS)])
    logits = np.concatenate([batch.logits for batch in pruned.evaluate(IDS)])
    assert np.abs(logits - expected).max() < 1e-4
    assert np.abs(logits - unmasked).max() > 0.1


def test_shards_stay_shards(tmp_path: pathlib.Path) -> None:
    whole = write(tmp_path / "whole", {})
    (whole / "model.safetensors").unlink()
    tensors = gpt_oss()
    names = sorted(tensors)
    places = {name: f"model-0000{1 + at % 2}-of-00002.safetensors" for at, name in enumerate(names)}
    for file in set(places.values()):
        save_file({name: tensors[name] for name in names if places[name] == file}, whole / file)
    total = sum(array.nbytes for array in tensors.values())
    index = {"metadata": {"total_size": total, "total_parameters": 1}, "weight_map": places}
    (whole / "model.safetensors.index.json").write_text(json.dumps(index))
    prune(whole, tmp_path / "pruned", KEPT)
    written = json.loads((tmp_path / "pruned/model.safetensors.index.json").read_text())
    after = {name: load_file(tmp_path / "pruned" / file)[name] for name, file in written["weight_map"].items()}
    assert written["weight_map"] == places
    assert written["metadata"] == {"total_size": sum(array.nbytes for array in after.values())}
    record = record_of_config(read_config(tmp_path / "pruned"))
    assert record is not None
    assert set(places.values()) <= set(record.history[0].source_sha256)


def test_config_and_other_files(tmp_path: pathlib.Path) -> None:
    nested = {"model_type": "gpt_oss", "num_local_experts": 4, "num_experts_per_tok": 2, "num_hidden_layers": 2}
    whole = write(tmp_path / "whole", gpt_oss(), {"text_config": nested, "num_experts": 4, "vision_config": {"a": 4}})
    (whole / "LICENSE").write_text("free")
    (whole / "chat_template.jinja").write_text("{{ x }}")
    (whole / "other.gguf").write_bytes(b"GGUF")
    (whole / "pytorch_model.bin").write_bytes(b"x")
    templates = whole / "additional_chat_templates"
    templates.mkdir()
    (templates / "tool.jinja").write_text("{{ y }}")
    prune(whole, tmp_path / "pruned", KEPT)
    config = read_config(tmp_path / "pruned")
    assert config["text_config"] == nested | {"num_local_experts": 2}
    assert (config["num_experts"], config["vision_config"]) == (2, {"a": 4})
    names = {path.relative_to(tmp_path / "pruned").as_posix() for path in (tmp_path / "pruned").rglob("*")}
    assert names == {
        *("LICENSE", "chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json"),
        *("tokenizer_config.json", "additional_chat_templates", "additional_chat_templates/tool.jinja"),
    }
    assert (tmp_path / "pruned/LICENSE").read_text() == "free"


def test_pruning_twice_keeps_the_first_numbers(tmp_path: pathlib.Path) -> None:
    whole = tiny.write_model(tmp_path / "whole", tiny.MIXTRAL | {"num_local_experts": 6})
    prune(whole, tmp_path / "once", {0: [1, 2, 4, 5], 1: [0, 1, 2, 3]})
    prune(tmp_path / "once", tmp_path / "twice", {0: [1, 3], 1: [0, 2]})
    record = record_of_config(read_config(tmp_path / "twice"))
    assert record is not None
    assert (record.experts, record.kept) == (6, {0: [2, 5], 1: [0, 2]})
    prune(whole, tmp_path / "direct", record.kept)
    for name, array in load_file(tmp_path / "direct/model.safetensors").items():
        np.testing.assert_array_equal(load_file(tmp_path / "twice/model.safetensors")[name], array)


def test_a_layer_that_predicts_ahead_keeps_its_first_experts(tmp_path: pathlib.Path) -> None:
    tensors = gpt_oss()
    moved = {name.replace("layers.1.", "layers.2."): array for name, array in tensors.items() if "layers.1." in name}
    whole = write(tmp_path / "whole", tensors | moved)
    model = read_prunable_model(prunable_location(str(whole), tmp_path / "pruned"))
    assert (model.layers, model.ahead) == ([0, 1], ["model.layers.2.mlp"])
    prune(whole, tmp_path / "pruned", KEPT)
    name = "model.layers.2.mlp.router.bias"
    np.testing.assert_array_equal(load_file(tmp_path / "pruned/model.safetensors")[name], moved[name][:2])


BLOCK = "model.layers.1.mlp"


@pytest.mark.parametrize(
    ("added", "settings", "reason"),
    [
        ({f"{BLOCK}.coefficient.weight": numbers(2, 3)}, {}, "coefficient"),
        ({f"{BLOCK}.gate.tid2eid": numbers(8, 2)}, {}, "tid2eid"),
        ({f"{BLOCK}.gate.weight": numbers(4, 3)}, {}, "2 routers"),
        ({f"{BLOCK}.experts.new_proj": numbers(5, 3)}, {}, "does not fit 4 experts"),
        ({f"{BLOCK}.router.bias": numbers(5)}, {}, "does not fit 4 experts"),
        ({f"{BLOCK}.experts.7.up_proj.weight": numbers(2, 3)}, {}, "does not fit 4 experts"),
        ({f"{BLOCK}.experts.1.up_proj.weight": numbers(2, 3)}, {}, "1 of 4 experts"),
        ({}, {"num_experts": 8}, "num_experts 8 beside"),
        ({}, {"moe_num_experts": [4, 4]}, "moe_num_experts"),
        ({}, {"zero_expert_num": 2}, "identity experts"),
        ({}, {"quantization": {"model.layers.0.mlp.experts.3.up_proj": {"bits": 8}}}, "name single experts"),
    ],
)
def test_what_could_be_written_wrongly_is_refused(
    tmp_path: pathlib.Path, added: Arrays, settings: dict[str, Any], reason: str
) -> None:
    whole = write(tmp_path / "whole", gpt_oss() | added, **settings)
    with pytest.raises(UserError, match=reason):
        read_prunable_model(prunable_location(str(whole), tmp_path / "pruned"))


def test_a_dense_folder_is_refused(tmp_path: pathlib.Path) -> None:
    whole = tiny.write_model(tmp_path / "dense", tiny.DENSE)
    with pytest.raises(UserError, match="dense model"):
        read_prunable_model(prunable_location(str(whole), tmp_path / "pruned"))
