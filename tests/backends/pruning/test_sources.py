"""Models of other programs' stores are pruned from where they are."""

from __future__ import annotations

import pathlib

from safetensors.numpy import load_file

from moe_watch.backends.prune_record import record_at
from tests.backends import llama_files, tiny
from tests.backends.discovery import trees
from tests.backends.pruning.pruned_files import prune


def test_a_model_of_ollama(home: pathlib.Path, tmp_path: pathlib.Path) -> None:
    whole = llama_files.write_gguf(tmp_path / "whole.gguf")
    blob = trees.ollama_model(home / ".ollama/models", whole)
    prune("ollama:tiny:8x7b", tmp_path / "pruned.gguf", keep=2)
    record = record_at(tmp_path / "pruned.gguf")
    assert record is not None
    assert record.history[0].source_sha256 == {blob.name: blob.name.removeprefix("sha256-")}


def test_a_downloaded_repository(home: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Its files are links into the store; the pruned folder has files."""
    whole = tiny.write_model(tmp_path / "whole")
    trees.hub_repository(home / ".cache/huggingface/hub", "tiny/moe", trees.files_of(whole))
    kept = prune("tiny/moe", tmp_path / "pruned", keep=2)
    assert not any(path.is_symlink() for path in (tmp_path / "pruned").iterdir())
    prune(whole, tmp_path / "direct", kept)
    tensors = [load_file(tmp_path / name / "model.safetensors") for name in ("pruned", "direct")]
    assert {name: array.tobytes() for name, array in tensors[0].items()} == {
        name: array.tobytes() for name, array in tensors[1].items()
    }


def test_a_downloaded_gguf_file(home: pathlib.Path, tmp_path: pathlib.Path) -> None:
    whole = llama_files.write_gguf(tmp_path / "whole.gguf")
    trees.hub_repository(home / ".cache/huggingface/hub", "tiny/moe-GGUF", {"moe-F32.gguf": whole})
    kept = prune("tiny/moe-GGUF:F32", tmp_path / "pruned.gguf", keep=2)
    record = record_at(tmp_path / "pruned.gguf")
    assert record is not None
    assert record.kept == kept
