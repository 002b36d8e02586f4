"""Model files made to mislead: each is refused in one line, or pruned as if the misleading entry were not there."""

from __future__ import annotations

import json
import pathlib
import time
from typing import Any

import gguf
import numpy as np
import pytest

from moe_watch.backends.model_files.config import read_config
from moe_watch.backends.model_files.gguf import read_gguf
from moe_watch.backends.model_files.safetensors import read_tensors
from moe_watch.backends.prune_record import CONFIG_KEY, MOST_EXPERTS, record_of_config, record_of_gguf
from moe_watch.backends.pruning.new_output import check_output
from moe_watch.backends.pruning.pruner import prunable_location, read_prunable_model
from moe_watch.routing.errors import UserError
from tests.backends import tiny
from tests.backends.pruning.pruned_files import Kept, prune
from tests.backends.pruning.test_folder_writer import numbers
from tests.backends.pruning.test_folder_writer import write as write_folder
from tests.backends.pruning.test_gguf_writer import write

KEPT: Kept = {0: [0, 3], 1: [1, 2]}
WRONG_RECORDS: dict[str, dict[str, Any]] = {
    "fewer experts": {"experts": 9, "kept": {0: [0, 1], 1: [0, 1]}},
    "more experts": {"experts": 9, "kept": {0: [0, 1, 2, 3, 4, 5], 1: [0, 1, 2, 3, 4, 5]}},
    "other layers": {"experts": 9, "kept": {0: [5, 6, 7, 8]}},
    "impossible numbers": {"experts": MOST_EXPERTS + 1, "kept": {0: [0, 1, 2, MOST_EXPERTS], 1: [0, 1, 2, 3]}},
}
"""Of no model with 2 layers of 4 experts."""


def stacked() -> dict[str, np.ndarray]:
    found = {"model.embed_tokens.weight": numbers(8, 4)}
    for layer in KEPT:
        block = f"model.layers.{layer}.mlp"
        found |= {
            f"{block}.gate.weight": numbers(4, 3, start=layer),
            f"{block}.experts.down_proj": numbers(4, 3, 2, start=layer),
            f"{block}.experts.gate_up_proj": numbers(4, 3, 2, start=layer),
        }
    return found


def model_at(path: pathlib.Path) -> Any:
    return read_prunable_model(prunable_location(str(path), path.with_name("pruned" + path.suffix)))


@pytest.mark.parametrize("wrong", WRONG_RECORDS.values(), ids=WRONG_RECORDS)
def test_a_record_of_another_model_is_not_used(tmp_path: pathlib.Path, wrong: dict[str, Any]) -> None:
    def add(writer: gguf.GGUFWriter) -> None:
        writer.add_uint64("moe_watch.prune.experts", wrong["experts"])
        writer.add_array("moe_watch.prune.layers", list(wrong["kept"]))
        for layer, kept in wrong["kept"].items():
            writer.add_array(f"moe_watch.prune.kept.{layer}", kept)
        writer.add_string("moe_watch.prune.history", "[]")

    prune(write(tmp_path / "whole.gguf", metadata=add), tmp_path / "pruned.gguf", KEPT)
    record = record_of_gguf(read_gguf(tmp_path / "pruned.gguf"))
    folder = write_folder(tmp_path / "whole", stacked(), **{CONFIG_KEY: {**wrong, "history": []}})
    prune(folder, tmp_path / "pruned", KEPT)
    of_folder = record_of_config(read_config(tmp_path / "pruned"))
    assert [(each and each.experts, each and each.kept) for each in (record, of_folder)] == [(4, KEPT)] * 2


def test_a_layer_with_a_number_of_5000_digits_is_refused(tmp_path: pathlib.Path) -> None:
    long = "9" * 5000

    def rename(tensors: dict[str, np.ndarray]) -> None:
        tensors[f"blk.{long}.ffn_gate_exps.weight"] = tensors.pop("blk.0.ffn_gate_exps.weight")

    with pytest.raises(UserError, match="does not prune") as refused:
        model_at(write(tmp_path / "whole.gguf", rename))
    assert len(str(refused.value)) < 400
    tensors = stacked() | {f"model.layers.0.mlp.experts.{long}.w1.weight": numbers(3)}
    with pytest.raises(UserError, match="does not fit 4 experts"):
        model_at(write_folder(tmp_path / "whole", tensors))
    tensors = stacked() | {f"model.layers.{long}.mlp.experts.gate_up_proj": numbers(4, 3)}
    assert model_at(write_folder(tmp_path / "other", tensors)).layers == [0, 1]


def test_a_line_break_in_a_name_hides_no_experts(tmp_path: pathlib.Path) -> None:
    def rename(tensors: dict[str, np.ndarray]) -> None:
        tensors["blk.0.ffn_gate_exps\n.weight"] = tensors.pop("blk.0.ffn_gate_exps.weight")

    with pytest.raises(UserError, match="does not prune"):
        model_at(write(tmp_path / "whole.gguf", rename))


def test_one_repeated_name_among_many_is_found_at_once(tmp_path: pathlib.Path) -> None:
    path = write(
        tmp_path / "whole.gguf", metadata=lambda writer: [writer.add_uint32(f"key{n:05}", n) for n in range(60_000)]
    )
    content = path.read_bytes()
    path.write_bytes(content.replace(b"key59999", b"key00007"))
    began = time.monotonic()
    with pytest.raises(UserError, match="two metadata entries named 'key00007'"):
        model_at(path)
    assert time.monotonic() - began < 20, "the time grows with the square of the number of entries"


def test_a_model_with_experts_ahead_only_is_refused(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "whole.gguf", metadata=lambda writer: writer.add_uint32("llama.nextn_predict_layers", 2))
    with pytest.raises(UserError, match="experts only in layers that predict further tokens"):
        model_at(path)


def test_groups_that_do_not_divide_the_experts_are_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="divides 4 experts into 3 groups"):
        model_at(write_folder(tmp_path / "whole", stacked(), n_group=3, topk_group=2))


@pytest.mark.parametrize("metadata", ["total_size", [1], 5, {"total_size": 1}])
def test_an_index_with_other_metadata(tmp_path: pathlib.Path, metadata: Any) -> None:
    whole = write_folder(tmp_path / "whole", stacked())
    index = {"metadata": metadata, "weight_map": dict.fromkeys(stacked(), "model.safetensors")}
    (whole / "model.safetensors.index.json").write_text(json.dumps(index))
    prune(whole, tmp_path / "pruned", KEPT)
    written = json.loads((tmp_path / "pruned/model.safetensors.index.json").read_text())
    stored = sum(each.bytes for each in read_tensors(tmp_path / "pruned/model.safetensors"))
    assert written["metadata"] == ({"total_size": stored} if isinstance(metadata, dict) else {})


@pytest.mark.parametrize("place", ["../secret.safetensors", "/etc/passwd", "[" * 100_000])
def test_an_index_leads_to_no_other_folder(tmp_path: pathlib.Path, place: str) -> None:
    (tmp_path / "secret.safetensors").write_bytes(b"secret")
    whole = write_folder(tmp_path / "whole", stacked())
    index = place if place.startswith("[") else json.dumps({"weight_map": {"model.embed_tokens.weight": place}})
    (whole / "model.safetensors.index.json").write_text(index)
    with pytest.raises(UserError, match=r"listed in model\.safetensors\.index\.json|not a valid index"):
        model_at(whole)


def test_text_that_utf_8_does_not_have(tmp_path: pathlib.Path) -> None:
    """Half of a surrogate pair in config.json and in a tensor's name, and a file name that is not text."""
    whole = write_folder(tmp_path / "whole", stacked() | {"model.norm_.weight": numbers(3)}, note="\ud800 und ä")
    content = (whole / "model.safetensors").read_bytes().replace(b"model.norm_.weight", b"model.\\ud800weight")
    (whole / "model.safetensors").write_bytes(content)
    (whole / "\udcff.txt").write_text("copied")
    prune(whole, tmp_path / "pruned", KEPT)
    assert read_config(tmp_path / "pruned")["note"] == "\ud800 und ä"
    assert (tmp_path / "pruned/\udcff.txt").read_text() == "copied"
    header = (tmp_path / "pruned/model.safetensors").read_bytes()
    assert "model.\ud800weight" in json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])


def test_a_name_that_no_disk_can_have(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"x\.gguf cannot be written \(File name too long\)"):
        check_output(tmp_path / ("x" * 300 + ".gguf"), 1)


def test_the_tiny_models_here_are_prunable(tmp_path: pathlib.Path) -> None:
    """A control: without the misleading entries, nothing is refused."""
    assert model_at(write(tmp_path / "whole.gguf")).layers == model_at(write_folder(tmp_path / "w", stacked())).layers
    assert tiny.MIXTRAL["num_local_experts"] == 4
