"""Facts from headers, and their cache."""

from __future__ import annotations

import os
import pathlib
import shutil
from collections.abc import Callable

import gguf
import numpy as np
import pytest

from moe_watch.backends.discovery import facts
from moe_watch.backends.discovery.candidates import ModelCandidate, folder_candidate, gguf_candidates
from moe_watch.backends.discovery.facts import ModelFacts, facts_of
from moe_watch.sessions.library.cache import LibraryCache
from tests.backends import llama_files, tiny


def of_file(path: pathlib.Path, cache: LibraryCache | None = None) -> ModelFacts:
    (candidate,) = gguf_candidates([path], "given")
    return facts_of(candidate, LibraryCache(None) if cache is None else cache)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[ModelCandidate]:
    """Candidates whose files were read, and not taken from the cache."""
    found: list[ModelCandidate] = []
    read: Callable[[ModelCandidate], ModelFacts] = facts._read

    def counted(candidate: ModelCandidate) -> ModelFacts:
        found.append(candidate)
        return read(candidate)

    monkeypatch.setattr(facts, "_read", counted)
    return found


# -- GGUF


def test_layers_that_only_draft_tokens_are_not_counted(tmp_path: pathlib.Path) -> None:
    def change(writer: gguf.GGUFWriter) -> None:
        writer.add_uint32("llama.nextn_predict_layers", 1)

    found = of_file(llama_files.write_gguf(tmp_path / "m.gguf", change=change))
    assert (found.layers, found.blocks, found.experts) == (1, 2, 4)


def test_experts_per_token_by_layer(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "laguna")
    writer.add_block_count(3)
    writer.add_expert_count(4)
    writer.add_array("laguna.expert_used_count", [0, 2, 3])
    for layer in (1, 2):
        writer.add_tensor(f"blk.{layer}.ffn_gate_inp.weight", np.zeros((4, 32), np.float32))
    llama_files.finish(writer)
    found = of_file(path)
    assert (found.layers, found.experts, found.experts_per_token) == (2, 4, [2, 3])


def test_quantization_is_that_of_the_tensors_not_of_the_name(tmp_path: pathlib.Path) -> None:
    path = llama_files.write_gguf(tmp_path / "m-Q2_K.gguf", experts_as=gguf.GGMLQuantizationType.Q8_0)
    found = of_file(path)
    tensors = gguf.GGUFReader(path).tensors
    quantized = sum(int(each.n_bytes) for each in tensors if each.tensor_type.name == "Q8_0")
    share = quantized / sum(int(each.n_bytes) for each in tensors)
    other = 1 - share
    words = {"Q8_0": share, "F32": other}
    expected = ", ".join(f"{kind} {round(100 * part)} %" for kind, part in sorted(words.items(), key=lambda e: -e[1]))
    assert found.quantization == expected


def test_no_vocabulary_is_hashed(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = llama_files.write_gguf(tmp_path / "m.gguf")
    monkeypatch.setattr("moe_watch.backends.model_files.gguf.hashlib", None)
    assert of_file(path).problem == ""


def test_what_llama_cpp_cannot_run_is_a_problem(tmp_path: pathlib.Path) -> None:
    config = tiny.MIXTRAL | {"num_experts_per_tok": 5}
    found = of_file(llama_files.write_gguf(tmp_path / "m.gguf", config))
    assert found.problem == "m.gguf selects 5 of 4 experts for a token (llama.expert_used_count)"
    assert found.layers == 2


# -- folders


@pytest.mark.parametrize("file", ["chat_template.jinja", "chat_template.json"])
def test_a_template_may_be_a_file(tmp_path: pathlib.Path, file: str) -> None:
    folder = tiny.write_model(tmp_path / "m")
    assert facts_of(folder_candidate("m", folder, "given"), LibraryCache(None)).template is False
    (folder / file).write_text("x")
    assert facts_of(folder_candidate("m", folder, "given"), LibraryCache(None)).template is True


def test_weights_that_are_not_quantized_have_their_type(tmp_path: pathlib.Path) -> None:
    import mlx.core as mx

    folder = tiny.write_model(tmp_path / "m", dtype=mx.bfloat16)
    found = facts_of(folder_candidate("m", folder, "given"), LibraryCache(None))
    assert found.quantization == "BF16 100 %"


# -- the cache


def test_a_file_is_read_once(tmp_path: pathlib.Path, reads: list[ModelCandidate]) -> None:
    path = llama_files.write_gguf(tmp_path / "m.gguf")
    cache = LibraryCache(tmp_path / "cache/models.json")
    first = of_file(path, cache)
    cache.save()
    assert of_file(path, LibraryCache(tmp_path / "cache/models.json")) == first
    assert len(reads) == 1


@pytest.mark.parametrize("change", ["size", "time", "permissions", "format"])
def test_a_changed_file_is_read_again(
    tmp_path: pathlib.Path, reads: list[ModelCandidate], change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = llama_files.write_gguf(tmp_path / "m.gguf")
    cache = LibraryCache(None)
    of_file(path, cache)
    if change == "size":
        times = path.stat().st_mtime_ns
        path.write_bytes(path.read_bytes()[:-1])
        os.utime(path, ns=(times, times))
    elif change == "time":
        os.utime(path, (1, 1))
    elif change == "permissions":
        path.chmod(0o600 if path.stat().st_mode & 0o777 != 0o600 else 0o644)
    else:
        monkeypatch.setattr(facts, "FORMAT", facts.FORMAT + 1)
    found = of_file(path, cache)
    assert len(reads) == 2
    assert ("truncated" in found.problem) == (change == "size")


def test_a_changed_shard_is_seen(tmp_path: pathlib.Path, reads: list[ModelCandidate]) -> None:
    folder = tiny.write_model(tmp_path / "m")
    cache = LibraryCache(None)
    assert facts_of(folder_candidate("m", folder, "given"), cache).problem == ""
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert "truncated" in facts_of(folder_candidate("m", folder, "given"), cache).problem
    assert len(reads) == 2


@pytest.mark.parametrize("damage", ["garbage", "another user", "writable by others", "a FIFO"])
def test_an_unsound_cache_is_ignored(
    tmp_path: pathlib.Path, reads: list[ModelCandidate], damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = llama_files.write_gguf(tmp_path / "m.gguf")
    file = tmp_path / "cache/models.json"
    cache = LibraryCache(file)
    of_file(path, cache)
    cache.save()
    if damage == "garbage":
        file.write_bytes(b"\xff{")
    elif damage == "another user":
        monkeypatch.setattr("os.geteuid", lambda: os.stat(file).st_uid + 1)
    elif damage == "writable by others":
        file.chmod(0o666)
    else:
        file.unlink()
        os.mkfifo(file)
    assert of_file(path, LibraryCache(file)).layers == 2
    assert len(reads) == 2


def test_the_cache_is_private(tmp_path: pathlib.Path) -> None:
    cache = LibraryCache(tmp_path / "cache/models.json")
    of_file(llama_files.write_gguf(tmp_path / "m.gguf"), cache)
    cache.save()
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "cache/models.json").stat().st_mode & 0o777 == 0o600


def test_a_moved_folder_is_another_one(tmp_path: pathlib.Path, reads: list[ModelCandidate]) -> None:
    cache = LibraryCache(None)
    folder = tiny.write_model(tmp_path / "m")
    facts_of(folder_candidate("m", folder, "given"), cache)
    shutil.move(folder, tmp_path / "n")
    facts_of(folder_candidate("n", tmp_path / "n", "given"), cache)
    assert len(reads) == 2
