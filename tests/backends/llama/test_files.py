"""GGUF headers, and refusals of damaged files before llama.cpp reads them."""

from __future__ import annotations

import contextlib
import pathlib
import struct
from collections.abc import Callable
from typing import Any

import gguf
import numpy as np
import pytest

from moe_watch.backends.llama import model_facts as llama_facts
from moe_watch.backends.model_files import catalog
from moe_watch.backends.model_files.gguf import TENSOR_TYPES, read_gguf, read_parts
from moe_watch.backends.model_files.preflight import preflight
from moe_watch.backends.protocol import EngineOptions
from moe_watch.routing.errors import UserError
from tests.backends import llama_files, tiny


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return llama_files.write_gguf(tmp_path_factory.mktemp("gguf") / "whole.gguf").read_bytes()


def refusal(path: pathlib.Path) -> str:
    with pytest.raises(UserError) as caught:
        preflight(catalog.locate(str(path)))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def written(path: pathlib.Path, architecture: str, tensors: dict[str, Any], **metadata: Any) -> pathlib.Path:
    """Write a file with these metadata, valid or not."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in metadata.items():
        name = key.replace("__", ".")
        writer.add_string(name, value) if isinstance(value, str) else writer.add_uint32(name, value)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    llama_files.finish(writer)
    return path


TENSOR = {"x": np.zeros((4, 32), np.float32)}

# -- whole files


def test_a_header_is_read_as_the_reference_reader_reads_it() -> None:
    ours, theirs = read_gguf(catalog.POCKET_GGUF), gguf.GGUFReader(catalog.POCKET_GGUF)
    assert [(t.name, t.dtype, t.shape, t.bytes) for t in ours.tensors] == [
        (t.name, t.tensor_type.name, tuple(t.shape.tolist()), int(t.n_bytes)) for t in theirs.tensors
    ]
    scalars = {key: value for key, value in ours.metadata.items() if not key.startswith("tokenizer.ggml.t")}
    del scalars["tokenizer.ggml.merges"]
    assert scalars == {key: theirs.fields[key].contents() for key in scalars}
    assert ours.metadata.keys() == {key for key in theirs.fields if not key.startswith("GGUF.")}
    assert ours.metadata["tokenizer.ggml.tokens"].startswith("2048 items, ")


def test_a_gguf_file_goes_to_llama_cpp(monkeypatch: pytest.MonkeyPatch) -> None:
    location = catalog.locate(str(catalog.POCKET_GGUF))
    monkeypatch.setattr(catalog, "missing_packages", lambda engine: [])
    assert catalog.choose_backend("auto", location) == "llama.cpp"
    assert catalog.choose_backend("llama.cpp", catalog.locate("pocket", "llama.cpp")) == "llama.cpp"
    with pytest.raises(UserError, match=r"the mlx backend does not read pocket \(gguf files\)"):
        catalog.choose_backend("mlx", location)
    monkeypatch.setattr(catalog, "missing_packages", lambda engine: ["llama_cpp"])
    with pytest.raises(UserError, match=r'llama\.cpp backend is not installed: run `.+ "moe-watch\[llama\]"'):
        catalog.choose_backend("auto", location)


def test_arrays_count_in_the_fingerprint(tmp_path: pathlib.Path) -> None:
    prints = set()
    for number, merge in enumerate(["a b", "a b", "a c"]):
        writer = gguf.GGUFWriter(tmp_path / f"{number}.gguf", "llama")
        writer.add_token_merges([merge])
        llama_files.finish(writer)
        prints.add(llama_facts.weight_facts([read_gguf(tmp_path / f"{number}.gguf")]).fingerprint)
    assert len(prints) == 2


def test_sizes_of_all_types_are_those_of_the_reference() -> None:
    known = {int(kind): (kind.name, *sizes) for kind, sizes in gguf.GGML_QUANT_SIZES.items()}
    assert len(known) > 30
    assert {kind: TENSOR_TYPES[kind] for kind in known} == known


def test_quantised_tensors_are_told_by_their_bytes(tmp_path: pathlib.Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "q.gguf", "llama")
    writer.add_expert_count(4)
    blocks = np.zeros((4, 32, 64), np.float32)
    kind = gguf.GGMLQuantizationType.Q8_0
    writer.add_tensor("blk.1.ffn_up_exps.weight", gguf.quantize(blocks, kind), raw_dtype=kind)
    writer.add_tensor("output_norm.weight", np.zeros(64, np.float32))
    llama_files.finish(writer)
    parts = read_parts(tmp_path / "q.gguf")
    assert llama_facts.stored_as(parts) == "Q8_0 97 %, F32 3 %"
    assert llama_facts.quantization(parts) == "Q8_0 97 %, F32 3 %"
    assert not llama_facts.is_float32(parts)
    facts = llama_facts.weight_facts(parts)
    assert facts.expert_bytes == {1: 32 * 64 // 32 * 34}
    assert (facts.non_expert_bytes, facts.parameters) == (256, 4 * 32 * 64 + 64)


def test_parts_of_a_model_are_found_and_checked(tmp_path: pathlib.Path) -> None:
    paths = [tmp_path / f"m-0000{number}-of-00002.gguf" for number in (1, 2)]
    for number, path in enumerate(paths):
        tensors = {f"x{number}": TENSOR["x"]}
        written(
            path, "llama", tensors, llama__expert_count=8, llama__expert_used_count=2, split__count=2, split__no=number
        )
    parts = read_parts(paths[0])
    assert [tensor.name for tensor in llama_facts.all_tensors(parts)] == ["x0", "x1"]
    preflight(catalog.locate(str(paths[0])))
    assert refusal(paths[1]) == f"{paths[1]} is one of 2 parts: give the part named …-00001-of-00002.gguf"
    paths[1].write_bytes(paths[1].read_bytes()[:-4])
    assert f"{paths[1]} is truncated" in refusal(paths[0])
    paths[1].unlink()
    assert f"{paths[1]} cannot be read (No such file or directory)" in refusal(paths[0])


def test_parts_that_were_renamed_or_joined_end_to_end_are_told_how_to_merge(tmp_path: pathlib.Path) -> None:
    parts = [
        written(tmp_path / f"{number}.gguf", "llama", {f"x{number}": TENSOR["x"]}, split__count=2, split__no=number)
        for number in (0, 1)
    ]
    joined = tmp_path / "joined.gguf"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    merge = " in one folder with the others, or merge them with `llama-gguf-split --merge`"
    for path in (parts[0], joined):
        assert refusal(path) == f"{path} is one of 2 parts: give the part named …-00001-of-00002.gguf{merge}"
    assert refusal(parts[1]).endswith("give the part named …-00001-of-00002.gguf")


# -- files that cannot be used


def with_version(version: int, order: str = "<") -> Callable[[bytes], bytes]:
    return lambda data: data[:4] + struct.pack(f"{order}I", version) + data[8:]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda data: b"", "is not a GGUF file"),
        (lambda data: b"nope" + data[4:], "is not a GGUF file"),
        (lambda data: data[:6], "is truncated: 6 bytes are too few for a header"),
        (lambda data: data[:20], "is truncated inside its header"),
        (lambda data: data[:3000], "is truncated inside its header"),
        (lambda data: data[:-1000], "is truncated: tensor 'output.weight' ends at"),
        (with_version(1), "has GGUF version 1, but only 2 and 3 are supported"),
        (with_version(9), "has GGUF version 9"),
        (with_version(3, ">"), "is a big-endian GGUF file"),
        (lambda data: data[:8] + b"\xff" * 8 + data[16:], "is corrupt: a header with 18,446,744,073,709,551,615"),
        (lambda data: data[:16] + b"\xff" * 8 + data[24:], "is "),
        (lambda data: data[:24] + b"\xff" * 8 + data[32:], "is truncated inside its header"),
        (lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer"),
    ],
    ids=[
        "empty", "wrong magic", "six bytes", "no counts", "in the header", "in the data", "version 1", "version 9",
        "big-endian", "absurd tensors", "absurd metadata", "absurd string", "LFS pointer",
    ],
)  # fmt: skip
def test_damaged_files(whole: bytes, damage: Callable[[bytes], bytes], says: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(damage(whole))
    message = refusal(path)
    assert says in message
    assert str(path) in message


@pytest.mark.parametrize("place", range(24, 400, 7))
def test_no_damage_to_a_header_is_more_than_a_plain_error(whole: bytes, place: int, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
    with contextlib.suppress(UserError):
        preflight(catalog.locate(str(path)))


@pytest.mark.parametrize(
    ("metadata", "tensors", "says"),
    [
        ({"general__type": "adapter", "llama__expert_count": 8}, TENSOR, "is an adapter (LoRA), not a model"),
        ({"general__type": "mmproj", "llama__expert_count": 8}, TENSOR, "is the image or sound part of a model"),
        ({"general__type": "imatrix", "llama__expert_count": 8}, TENSOR, "is not a model (imatrix)"),
        ({"llama__expert_count": 8}, {}, "is a vocabulary without weights"),
        ({"general__alignment": 0, "llama__expert_count": 8}, TENSOR, "is corrupt: alignment 0"),
    ],
    ids=["LoRA", "mmproj", "imatrix", "vocabulary", "alignment"],
)
def test_other_than_models(
    metadata: dict[str, Any], tensors: dict[str, Any], says: str, tmp_path: pathlib.Path
) -> None:
    assert says in refusal(written(tmp_path / "m.gguf", "llama", tensors, **metadata))


def test_a_projector_by_its_architecture(tmp_path: pathlib.Path) -> None:
    assert "is the image or sound part" in refusal(written(tmp_path / "m.gguf", "clip", TENSOR))


def test_damage_to_the_embedded_model_says_reinstall(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "pocket.gguf"
    path.write_bytes(catalog.POCKET_GGUF.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"the embedded model is damaged .*: reinstall moe-watch"):
        preflight(catalog.ModelLocation("pocket", path, "gguf", "embedded"))


# -- models that llama.cpp refuses


def loading(path: pathlib.Path) -> str:
    pytest.importorskip("llama_cpp", reason="the llama.cpp engine is not installed: pip install moe-watch[llama]")
    from moe_watch.backends.llama.engine import load

    with pytest.raises(UserError) as caught:
        load(catalog.locate(str(path)), options=EngineOptions(threads=1), progress=lambda _: None)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_unknown_architecture(tmp_path: pathlib.Path) -> None:
    message = loading(llama_files.write_gguf(tmp_path / "m.gguf", architecture="no-such-family"))
    assert "cannot load m (unknown model architecture: 'no-such-family')" in message


def test_a_missing_tensor(tmp_path: pathlib.Path) -> None:
    tensors = llama_files.gguf_tensors(tiny.MIXTRAL, seed=0)
    del tensors["blk.1.attn_k.weight"]
    message = loading(llama_files.write_gguf(tmp_path / "m.gguf", tensors=tensors))
    assert "tensor 'blk.1.attn_k.weight' not found" in message


def test_a_model_without_a_vocabulary(tmp_path: pathlib.Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    llama_files.add_architecture(writer, tiny.MIXTRAL)
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(tiny.MIXTRAL["vocab_size"])
    for name, tensor in llama_files.gguf_tensors(tiny.MIXTRAL, seed=0).items():
        writer.add_tensor(name, tensor)
    llama_files.finish(writer)
    assert "m has no vocabulary: convert the model with its tokenizer" in loading(tmp_path / "m.gguf")
