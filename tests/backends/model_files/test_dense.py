"""Files of dense models pass; settings and tensors that disagree about experts are refused, never run as dense."""

from __future__ import annotations

import json
import pathlib
import struct
from collections.abc import Callable

import gguf
import pytest

from moe_watch.backends.model_files import catalog
from moe_watch.backends.model_files.config import expert_count, read_config
from moe_watch.backends.model_files.preflight import is_dense_model, preflight
from moe_watch.routing.errors import UserError
from tests.backends import llama_files, pocket_variants, tiny

Changed = Callable[..., pathlib.Path]


@pytest.fixture(scope="module")
def dense_folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tiny.write_model(tmp_path_factory.mktemp("dense") / "llama", tiny.DENSE)


def checked(path: pathlib.Path) -> catalog.ModelLocation:
    location = catalog.locate(str(path))
    preflight(location)
    return location


def refusal(path: pathlib.Path) -> str:
    with pytest.raises(UserError) as caught:
        checked(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- folders


@pytest.mark.parametrize(
    "entries",
    [
        {},
        {"num_local_experts": 0, "num_experts_per_tok": 0},
        {"num_experts": 1, "moe_topk": 1},
        {"n_routed_experts": None, "top_k_experts": None},
        {"architectures": ["MistralForCausalLM"]},
        {"text_config": {"num_experts": 0}},
    ],
    ids=["none", "zero", "one", "null", "architectures", "nested"],
)
def test_a_dense_folder_passes(dense_folder: pathlib.Path, changed: Changed, entries: dict[str, object]) -> None:
    folder = changed(dense_folder)
    config = json.loads((folder / "config.json").read_text()) | entries
    (folder / "config.json").write_text(json.dumps(config))
    location = checked(folder)
    assert is_dense_model(location)
    assert expert_count(read_config(folder)) is None


@pytest.mark.parametrize("experts", [None, 0, 1])
def test_expert_tensors_without_their_number_are_refused(
    mixtral_folder: pathlib.Path, changed: Changed, experts: int | None
) -> None:
    folder = changed(mixtral_folder, num_local_experts=experts, num_experts_per_tok=None)
    message = refusal(folder)
    assert "has the tensor 'model.layers.0.block_sparse_moe." in message
    assert "but its config.json gives no number of experts above 1: its routing cannot be observed reliably" in message


def test_a_number_by_layer_is_no_number(mixtral_folder: pathlib.Path, changed: Changed) -> None:
    folder = changed(mixtral_folder, num_local_experts=[4, 4], num_experts_per_tok=None)
    assert "its routing cannot be observed reliably: give another model" in refusal(folder)


def test_experts_per_token_without_experts_are_refused(dense_folder: pathlib.Path, changed: Changed) -> None:
    message = refusal(changed(dense_folder, num_experts_per_tok=2))
    assert "has num_experts_per_tok 2, but no number of experts: its routing cannot be observed reliably" in message


def test_a_moe_folder_is_not_dense(mixtral_folder: pathlib.Path) -> None:
    assert not is_dense_model(checked(mixtral_folder))
    assert not is_dense_model(catalog.ModelLocation("o/n", None, "huggingface", "hub")), "not downloaded yet"


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ({"architectures": ["BertForMaskedLM"], "model_type": "bert"}, "(BertForMaskedLM) does not generate text"),
        ({"architectures": ["Qwen3ForSequenceClassification"]}, "does not generate text: give a decoder-only language"),
        ({"model_type": "xlm-roberta"}, "(xlm-roberta) is an encoder, which returns embeddings and generates no text"),
        ({"model_type": "modernbert"}, "(modernbert) is an encoder"),
        ({"model_type": "t5", "is_encoder_decoder": True}, "is an encoder-decoder model"),
    ],
    ids=["masked", "classifier", "roberta", "modernbert", "t5"],
)
def test_models_that_generate_no_text_stay_refused(
    dense_folder: pathlib.Path, changed: Changed, entries: dict[str, object], says: str
) -> None:
    assert says in refusal(changed(dense_folder, **entries))


# -- GGUF files


def dense_file(path: pathlib.Path, change: llama_files.Change = lambda writer: None, **options: str) -> pathlib.Path:
    return llama_files.write_gguf(path, tiny.DENSE, change=change, **options)


@pytest.mark.parametrize("experts", [None, 0, 1])
def test_a_dense_file_passes(experts: int | None, tmp_path: pathlib.Path) -> None:
    def change(writer: gguf.GGUFWriter) -> None:
        if experts is not None:
            writer.add_expert_count(experts)

    assert is_dense_model(checked(dense_file(tmp_path / "m.gguf", change)))


def test_pocket_is_not_dense() -> None:
    assert not is_dense_model(checked(catalog.POCKET_GGUF))


@pytest.mark.parametrize(
    ("experts", "says"),
    [
        (None, "m has routers, but llama.expert_count does not give the number of experts"),
        (0, "m has routers, but llama.expert_count does not give the number of experts"),
        (1, "m has one expert per layer: its routers select nothing"),
    ],
    ids=["absent", "zero", "one"],
)
def test_expert_tensors_without_their_number_in_metadata(
    experts: int | None, says: str, tmp_path: pathlib.Path
) -> None:
    if experts is None:
        path = pocket_variants.write(tmp_path / "m.gguf", dropped=[".expert_count", ".expert_used_count"])
    else:
        counted = {".expert_count": pocket_variants.number(experts)}
        path = pocket_variants.write(tmp_path / "m.gguf", counted)
    assert says in refusal(path)


def test_experts_without_their_router_are_found_too(tmp_path: pathlib.Path) -> None:
    def without_routers(tensors: pocket_variants.Tensors) -> pocket_variants.Tensors:
        return {name: data for name, data in tensors.items() if "ffn_gate_inp" not in name}

    dropped = [".expert_count", ".expert_used_count"]
    path = pocket_variants.write(tmp_path / "m.gguf", dropped=dropped, of=without_routers)
    assert "does not give the number of experts" in refusal(path)


@pytest.mark.parametrize(
    ("architecture", "says"),
    [
        ("bert", "m (bert) is an encoder, which returns embeddings and generates no text: give a decoder-only"),
        ("nomic-bert-moe", "m (nomic-bert-moe) is an encoder"),
        ("t5", "m (t5) is an encoder-decoder model"),
        ("llada", "m (llada) is a diffusion model, which does not generate token by token"),
        ("wavtokenizer-dec", "m (wavtokenizer-dec) generates sound, not text"),
        ("clip", "is the image or sound part of a model"),
    ],
)
def test_files_that_generate_no_text_stay_refused(architecture: str, says: str, tmp_path: pathlib.Path) -> None:
    assert says in refusal(dense_file(tmp_path / "m.gguf", architecture=architecture))


def test_files_with_another_task_by_their_metadata(tmp_path: pathlib.Path) -> None:
    pooled = dense_file(tmp_path / "p.gguf", lambda writer: writer.add_pooling_type(gguf.PoolingType.LAST))
    assert "p is an embedding or ranking model, which generates no text" in refusal(pooled)
    both_ways = dense_file(tmp_path / "b.gguf", lambda writer: writer.add_causal_attention(False))
    assert "b attends to later tokens" in refusal(both_ways)
    adapter = dense_file(tmp_path / "a.gguf", lambda writer: writer.add_type("adapter"))
    assert "is an adapter (LoRA), not a model" in refusal(adapter)


def test_sizes_of_a_dense_model_are_all_non_expert(dense_folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    from moe_watch.backends.llama import model_facts
    from moe_watch.backends.model_files.gguf import read_parts
    from moe_watch.backends.model_files.preflight import read_tensor_tables
    from moe_watch.backends.model_files.sizes import weight_facts

    of_folder = weight_facts(read_config(dense_folder), read_tensor_tables(dense_folder))
    header = struct.unpack("<Q", (dense_folder / "model.safetensors").read_bytes()[:8])[0]
    assert of_folder.bytes == (dense_folder / "model.safetensors").stat().st_size - header - 8
    of_file = model_facts.weight_facts(read_parts(dense_file(tmp_path / "m.gguf")))
    assert of_folder.bytes == of_file.bytes
    for facts in (of_folder, of_file):
        assert (facts.expert_bytes, facts.non_expert_bytes) == ({}, facts.bytes)
