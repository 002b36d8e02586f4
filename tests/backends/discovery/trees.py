"""Folders as other programs lay them out, around model files made here.

Origins: Hugging Face's cache as `huggingface_hub` 2.4 writes it (blobs, and links to them in snapshots); Ollama's
manifest copied from `ollama` 0.1.48 after `ollama pull gemma:2b`, with its digests replaced; `manifests-v2` and lists
of manifests after `manifest/manifest.go` of Ollama; LM Studio's folders after `findLMStudioHome.ts` and
`modelsFolder.ts` of its client; llama.cpp's flat cache after file names of its `-hf` downloads.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OLDER = "fedcba9876543210fedcba9876543210fedcba98"

OLLAMA_MANIFEST = {
    "schemaVersion": 2,
    "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
    "config": {
        "mediaType": "application/vnd.docker.container.image.v1+json",
        "digest": "sha256:887433b89a901c156f7e6944442f3c9e57f3c55d6ed52042cbb7303aea994290",
        "size": 483,
    },
    "layers": [
        {
            "mediaType": "application/vnd.ollama.image.model",
            "digest": "sha256:c1864a5eb19305c40519da12cc543519e48a0697ecd30e15d5ac228644957d12",
            "size": 1678447520,
        },
        {
            "mediaType": "application/vnd.ollama.image.license",
            "digest": "sha256:097a36493f718248845233af1d3fefe7a303f864fae13bc31a3a9704229378ca",
            "size": 8433,
        },
        {
            "mediaType": "application/vnd.ollama.image.template",
            "digest": "sha256:109037bec39c0becc8221222ae23557559bc594290945a2c4221ab4f303b8871",
            "size": 136,
        },
        {
            "mediaType": "application/vnd.ollama.image.params",
            "digest": "sha256:22a838ceb7fb22755a3b0ae9b4eadde629d19be1f651f73efb8c6b4e2cd0eea0",
            "size": 84,
        },
    ],
}
"""Content of `manifests/registry.ollama.ai/library/gemma/2b`."""


def hub_repository(
    cache: pathlib.Path, repository: str, files: dict[str, pathlib.Path], *, commit: str = COMMIT, main: bool = True
) -> pathlib.Path:
    """Add a repository to a cache of the Hub's client; return its snapshot."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / commit
    (folder / "blobs").mkdir(parents=True, exist_ok=True)
    for name, source in files.items():
        blob = folder / "blobs" / hashlib.sha256(source.read_bytes()).hexdigest()
        shutil.copy(source, blob)
        link = snapshot / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    if main:
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / "main").write_text(commit)
    return snapshot


def files_of(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    return {path.name: path for path in folder.iterdir()}


def blob_of(store: pathlib.Path, content: bytes) -> str:
    """Add a blob to Ollama's store; return its digest."""
    digest = hashlib.sha256(content).hexdigest()
    (store / "blobs").mkdir(parents=True, exist_ok=True)
    (store / "blobs" / f"sha256-{digest}").write_bytes(content)
    return f"sha256:{digest}"


def ollama_manifest(digest: str) -> dict[str, Any]:
    first, *rest = OLLAMA_MANIFEST["layers"]
    return OLLAMA_MANIFEST | {"layers": [first | {"digest": digest}, *rest]}


def ollama_model(
    store: pathlib.Path,
    source: pathlib.Path,
    name: str = "registry.ollama.ai/library/tiny/8x7b",
    *,
    change: Callable[[dict[str, Any]], dict[str, Any]] = lambda manifest: manifest,
) -> pathlib.Path:
    """Add a model to Ollama's store; return its blob."""
    digest = blob_of(store, source.read_bytes())
    path = store / "manifests" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(change(ollama_manifest(digest)), separators=(",", ":")))
    return store / "blobs" / digest.replace(":", "-")
