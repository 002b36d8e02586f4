"""Pruned GGUF files, byte by byte, read with the `gguf` package."""

from __future__ import annotations

import pathlib
import struct
from collections.abc import Callable
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Types

from moe_watch.backends.model_files.gguf import read_gguf
from moe_watch.backends.prune_record import record_of_gguf
from moe_watch.backends.pruning.pruner import prunable_location, read_prunable_model
from moe_watch.routing.errors import UserError
from tests.backends import llama_files, tiny
from tests.backends.pruning.pruned_files import Kept, prune

KEPT: Kept = {0: [0, 3], 1: [1, 2]}
TYPES = [
    *(Types.F32, Types.F16, Types.BF16, Types.Q4_0, Types.Q8_0, Types.MXFP4, Types.NVFP4, Types.IQ4_NL, Types.IQ1_S),
    *(Types.Q2_K, Types.Q3_K, Types.Q4_K, Types.Q5_K, Types.Q6_K, Types.IQ2_XXS, Types.IQ3_S, Types.IQ4_XS),
    *(Types.TQ1_0, Types.TQ2_0),
]
Change = Callable[[dict[str, np.ndarray]], None]


def unchanged(_: dict[str, np.ndarray]) -> None:
    """Leave the tensors as they are."""


def write(path: pathlib.Path, change: Change = unchanged, metadata: Any = lambda _: None) -> pathlib.Path:
    tensors = llama_files.gguf_tensors(tiny.MIXTRAL, seed=0)
    change(tensors)
    return llama_files.write_gguf(path, tensors=tensors, change=metadata)


def raw(path: pathlib.Path) -> dict[str, tuple[Types, tuple[int, ...], bytes]]:
    """Type, shape and bytes of each tensor."""
    found = gguf.GGUFReader(path).tensors
    return {each.name: (each.tensor_type, tuple(map(int, each.shape)), each.data.tobytes()) for each in found}


def experts_of(tensor: tuple[Types, tuple[int, ...], bytes]) -> list[bytes]:
    """Bytes of each expert, the slowest axis."""
    _, shape, data = tensor
    size = len(data) // shape[-1]
    return [data[at : at + size] for at in range(0, len(data), size)]


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
def test_experts_are_copied_in_any_type(tmp_path: pathlib.Path, kind: Types) -> None:
    block, size = gguf.GGML_QUANT_SIZES[kind]
    whole = tmp_path / "whole.gguf"
    writer = gguf.GGUFWriter(whole, "llama")
    llama_files.add_architecture(writer, tiny.MIXTRAL | {"num_hidden_layers": 2})
    llama_files.add_tokenizer(writer)
    random = np.random.default_rng(0)
    for layer in KEPT:
        for part in ("gate", "up", "down"):
            data = random.integers(0, 256, (4, 3, 2 * size), np.uint8)  # 2 blocks per row, 3 rows
            writer.add_tensor(f"blk.{layer}.ffn_{part}_exps.weight", data, raw_dtype=kind)
        writer.add_tensor(f"blk.{layer}.ffn_gate_inp.weight", random.normal(size=(4, 2 * block)).astype(np.float32))
    llama_files.finish(writer)
    prune(whole, tmp_path / "pruned.gguf", KEPT)
    before, after = raw(whole), raw(tmp_path / "pruned.gguf")
    assert list(before) == list(after)
    for name, tensor in after.items():
        kept = KEPT[int(name.split(".")[1])]
        assert tensor[0] == before[name][0]
        assert tensor[1] == (*before[name][1][:-1], 2)
        assert experts_of(tensor) == [experts_of(before[name])[number] for number in kept]


def test_all_else_is_copied_byte_by_byte(tmp_path: pathlib.Path) -> None:
    def add(writer: gguf.GGUFWriter) -> None:
        writer.add_custom_alignment(128)
        writer.add_array("a.nested", ["ä", "b"])
        writer.add_float64("a.double", 0.1)

    whole = write(tmp_path / "whole.gguf", metadata=add)
    prune(whole, tmp_path / "pruned.gguf", KEPT)
    before, after = read_gguf(whole), read_gguf(tmp_path / "pruned.gguf")
    entries = [
        {key: file.path.read_bytes()[start:stop] for key, start, stop in file.layout.entries}
        for file in (before, after)
    ]
    added = {key: entry for key, entry in entries[1].items() if key.startswith("moe_watch.prune.")}
    count = "llama.expert_count"
    assert entries[1] == entries[0] | added | {count: entries[1][count]}
    assert entries[1][count] == entries[0][count][:-4] + struct.pack("<I", 2)
    assert set(added) == {f"moe_watch.prune.{key}" for key in ("experts", "layers", "kept.0", "kept.1", "history")}
    assert after.layout.alignment == 128
    assert all(start % 128 == 0 for start in after.layout.starts)
    assert (tmp_path / "pruned.gguf").stat().st_size % 128 == 0
    tensors = raw(whole), raw(tmp_path / "pruned.gguf")
    others = [name for name in tensors[0] if "exps" not in name and "gate_inp" not in name]
    assert others
    assert all(tensors[0][name] == tensors[1][name] for name in others)


def test_the_record_names_sources_and_experts(tmp_path: pathlib.Path) -> None:
    import hashlib

    whole = write(tmp_path / "whole.gguf")
    prune(whole, tmp_path / "pruned.gguf", KEPT)
    record = record_of_gguf(read_gguf(tmp_path / "pruned.gguf"))
    assert record is not None
    assert (record.experts, record.kept) == (4, KEPT)
    assert record.history[0].source_sha256 == {"whole.gguf": hashlib.sha256(whole.read_bytes()).hexdigest()}


def test_pruning_twice_keeps_the_first_numbers(tmp_path: pathlib.Path) -> None:
    config = tiny.MIXTRAL | {"num_local_experts": 6}
    whole = llama_files.write_gguf(tmp_path / "whole.gguf", config)
    prune(whole, tmp_path / "once.gguf", {0: [1, 2, 4, 5], 1: [0, 1, 2, 3]})
    prune(tmp_path / "once.gguf", tmp_path / "twice.gguf", {0: [1, 3], 1: [0, 2]})
    record = record_of_gguf(read_gguf(tmp_path / "twice.gguf"))
    assert record is not None
    assert (record.experts, record.kept) == (6, {0: [2, 5], 1: [0, 2]})
    assert [step.keep for step in record.history] == [4, 2]
    prune(whole, tmp_path / "direct.gguf", record.kept)
    assert raw(tmp_path / "twice.gguf") == raw(tmp_path / "direct.gguf")


def test_parts_are_written_as_one_file(tmp_path: pathlib.Path) -> None:
    tensors = llama_files.gguf_tensors(tiny.MIXTRAL, seed=0)
    llama_files.write_gguf(tmp_path / "one.gguf", tensors=tensors)
    writer = gguf.GGUFWriter(tmp_path / "many.gguf", "llama", split_max_tensors=8)
    llama_files.add_architecture(writer, tiny.MIXTRAL)
    llama_files.add_tokenizer(writer)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    llama_files.finish(writer)
    [first, *others] = sorted(tmp_path.glob("many-*.gguf"))
    assert others
    prune(tmp_path / "one.gguf", tmp_path / "of_one.gguf", KEPT)
    prune(first, tmp_path / "of_many.gguf", KEPT)
    assert raw(tmp_path / "of_many.gguf") == raw(tmp_path / "of_one.gguf")
    after = read_gguf(tmp_path / "of_many.gguf")
    assert not [key for key in after.metadata if key.startswith("split.")]
    record = record_of_gguf(after)
    assert record is not None
    assert sorted(record.history[0].source_sha256) == [path.name for path in (first, *others)]


def test_a_layer_that_predicts_ahead_keeps_its_first_experts(tmp_path: pathlib.Path) -> None:
    whole = write(tmp_path / "whole.gguf", metadata=lambda writer: writer.add_nextn_predict_layers(1))
    model = read_prunable_model(prunable_location(str(whole), tmp_path / "pruned.gguf"))
    assert (model.layers, model.ahead) == ([0], ["blk.1"])
    prune(whole, tmp_path / "pruned.gguf", {0: [2, 3]})
    name = "blk.1.ffn_up_exps.weight"
    before, after = experts_of(raw(whole)[name]), experts_of(raw(tmp_path / "pruned.gguf")[name])
    assert after == before[:2]


def add_array(name: str, *shape: int) -> Change:
    def change(tensors: dict[str, np.ndarray]) -> None:
        tensors[name] = np.zeros(shape, np.float32)

    return change


def remove(name: str) -> Change:
    def change(tensors: dict[str, np.ndarray]) -> None:
        del tensors[name]

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (add_array("blk.0.ffn_gate_chexps.weight", 4, 2, 64), "ffn_gate_chexps"),
        (add_array("blk.1.ffn_new_exps.weight", 4, 2, 64), "ffn_new_exps"),
        (add_array("blk.0.ffn_gate_tid2eid.weight", 258, 2), "table of tokens"),
        (add_array("blk.0.ffn_gate_exps.bias", 5, 64), "does not fit 4 experts"),
        (add_array("blk.1.exp_probs_b.bias", 3), "does not fit 4 experts"),
        (remove("blk.1.ffn_gate_inp.weight"), "not both"),
    ],
)
def test_what_could_be_written_wrongly_is_refused(tmp_path: pathlib.Path, change: Change, reason: str) -> None:
    whole = write(tmp_path / "whole.gguf", change)
    with pytest.raises(UserError, match=reason):
        read_prunable_model(prunable_location(str(whole), tmp_path / "pruned.gguf"))


def test_norms_and_shared_experts_are_copied(tmp_path: pathlib.Path) -> None:
    def change(tensors: dict[str, np.ndarray]) -> None:
        for name in ("ffn_norm_exps.weight", "ffn_gate_inp.scale", "ffn_up_shexp.weight", "ffn_gate_inp_shexp.weight"):
            tensors[f"blk.0.{name}"] = np.arange(64, dtype=np.float32)

    whole = write(tmp_path / "whole.gguf", change)
    prune(whole, tmp_path / "pruned.gguf", KEPT)
    before, after = raw(whole), raw(tmp_path / "pruned.gguf")
    assert before["blk.0.ffn_gate_inp.scale"] == after["blk.0.ffn_gate_inp.scale"]
    assert before["blk.0.ffn_norm_exps.weight"] == after["blk.0.ffn_norm_exps.weight"]


def test_a_truncated_file_is_refused(tmp_path: pathlib.Path) -> None:
    whole = write(tmp_path / "whole.gguf")
    whole.write_bytes(whole.read_bytes()[:-2000])
    with pytest.raises(UserError, match="truncated"):
        read_prunable_model(prunable_location(str(whole), tmp_path / "pruned.gguf"))


def test_a_dense_model_is_refused(tmp_path: pathlib.Path) -> None:
    whole = llama_files.write_gguf(tmp_path / "dense.gguf", tiny.DENSE)
    with pytest.raises(UserError, match="dense model"):
        read_prunable_model(prunable_location(str(whole), tmp_path / "pruned.gguf"))


def test_a_damaged_record_is_not_used(tmp_path: pathlib.Path) -> None:
    def add(writer: gguf.GGUFWriter) -> None:
        writer.add_uint32("moe_watch.prune.experts", 8)
        writer.add_array("moe_watch.prune.layers", [0, 1])
        writer.add_array("moe_watch.prune.kept.0", [0, 1, 2, 9])
        writer.add_array("moe_watch.prune.kept.1", [0, 1, 2, 3])

    assert record_of_gguf(read_gguf(write(tmp_path / "whole.gguf", metadata=add))) is None
