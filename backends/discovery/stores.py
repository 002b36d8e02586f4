"""Models in the stores of other programs, under names that moe-watch accepts: Hub ids and `ollama:NAME`."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Sequence
from pathlib import Path

from moe_watch.backends.discovery.candidates import (
    CONFIG,
    FoundFiles,
    ModelCandidate,
    TreeFolder,
    folder_candidate,
    gguf_candidates,
    walk,
)
from moe_watch.backends.model_files import hub, hub_gguf, ollama
from moe_watch.backends.model_files.hub_gguf import TAG, GgufName
from moe_watch.routing.errors import UserError

REPOSITORY = "models--"
"""Beginning of the names of model folders in the Hub's cache."""
QUANTIZATION = re.compile(r"(?:UD-)?I?T?Q\d\w*|B?F16|F32|MXFP4\w*|NVFP4\w*", re.IGNORECASE)
"""Tag at the end of a file's name that is a quantization."""
MANIFEST = re.compile(r"manifest=(?P<owner>[^=]+)=(?P<name>[^=]+)=(?P<tag>[^=]+)\.json")
"""File beside a download in llama.cpp's own cache, with the name that was asked for."""


# -- the Hub's cache


def search_hub(folder: Path) -> FoundFiles:
    """Return the models in a cache of the Hub's client: of each repository the version that `main` points at.

    Without `main` it is the newest one, and the name is its path. Layout:
    https://huggingface.co/docs/huggingface_hub/guides/manage-cache
    """
    found = FoundFiles()
    for repository in _subfolders(folder, found.notes):
        if not repository.name.startswith(REPOSITORY):
            continue
        version = hub_gguf.snapshot(repository)
        identity = repository.name.removeprefix(REPOSITORY).replace("--", "/") if version is not None else None
        if identity is not None and hub.MODEL_ID.fullmatch(identity) is None:
            identity = None
        if (version := version or _newest(repository)) is not None:
            _search_version(version, identity, folder, found)
    return found


def _search_version(version: Path, identity: str | None, cache: Path, found: FoundFiles) -> None:
    """Add the models of one version of a repository."""
    tree = list(walk(version, found.notes))
    ggufs = [path for folder in tree for path in folder.ggufs]
    files = [path.relative_to(version).as_posix() for path in ggufs]
    names = {
        path: name
        for path, file in zip(ggufs, files, strict=True)
        if identity and (name := gguf_name(identity, file, files))
    }
    for folder in tree:
        found.candidates += gguf_candidates(folder.ggufs, "Hugging Face", names)
    if tree and _is_folder_model(tree[0], has_gguf=bool(ggufs)):
        name = identity if identity and _is_found_by_client(identity, cache) else str(version)
        found.candidates.append(folder_candidate(name, version, "Hugging Face"))


def _is_folder_model(folder: TreeFolder, *, has_gguf: bool) -> bool:
    return folder.is_model or (CONFIG in folder.names and not has_gguf)


def _is_found_by_client(identity: str, cache: Path) -> bool:
    """Return whether the id alone names the folder: the client is there, and looks in this cache."""
    folders = hub_gguf.hub_folders()[1 if os.environ.get("LLAMA_CACHE") else 0 :]  # llama.cpp's own is the first
    is_gguf = identity.upper().endswith("GGUF")
    return importlib.util.find_spec("huggingface_hub") is not None and cache in folders[:1] and not is_gguf


def _newest(repository: Path) -> Path | None:
    """Return the folder of the version that was downloaded last."""
    versions = _subfolders(repository / "snapshots", [])
    return max(versions, key=lambda path: path.stat().st_mtime_ns, default=None)


def gguf_name(repository: str, file: str, files: Sequence[str]) -> str | None:
    """Return the shortest name of a file of a repository; None if no name leads to it.

    Args:
        repository: `OWNER/NAME`.
        file: path of the file in the repository.
        files: paths of all GGUF files in it.
    """
    tag = TAG.search(file.rpartition("/")[2])
    selectors = [tag[1]] if tag is not None and QUANTIZATION.fullmatch(tag[1]) else []
    for selector in (*selectors, file):
        name = GgufName.parse(f"{repository}:{selector}")
        if name is not None and name.choose(files) == file:
            return f"{repository}:{selector}"
    return None


# -- llama.cpp's own cache


def search_flat(folder: Path) -> FoundFiles:
    """Return the models in the cache that llama.cpp had before it shared the Hub's."""
    found = FoundFiles()
    try:
        files = sorted(os.listdir(folder)) if folder.is_dir() else []
    except OSError as error:
        found.notes.append(f"{folder}: {error.strerror or error}")
        return found
    ggufs = [folder / name for name in files if name.endswith(".gguf")]
    found.candidates = gguf_candidates(ggufs, "llama.cpp", _flat_names(folder, files))
    return found


def _flat_names(folder: Path, files: Sequence[str]) -> dict[Path, str]:
    """Return the names by which files were downloaded, from the manifests beside them."""
    names: dict[Path, str] = {}
    for file in files:
        if (manifest := MANIFEST.fullmatch(file)) is None:
            continue
        repository = f"{manifest['owner']}/{manifest['name']}"
        prefix = f"{repository.replace('/', '_')}_"
        there = [each.removeprefix(prefix) for each in files if each.startswith(prefix) and each.endswith(".gguf")]
        for each in there:
            if name := gguf_name(repository, each, there):
                names[folder / f"{prefix}{each}"] = name
    return names


# -- Ollama


def search_ollama(store: Path) -> FoundFiles:
    """Return the models that Ollama has downloaded."""
    found = FoundFiles()
    try:
        models = list(ollama.stored_models(store))
    except OSError as error:
        found.notes.append(f"{store}: {error.strerror or error}")
        return found
    for model in models:
        name = f"{ollama.PREFIX}{model.name.short}"
        try:
            path = model.file()
        except UserError as error:
            found.candidates.append(
                ModelCandidate(name, model.manifest, "Ollama", "gguf", (model.manifest,), error.what)
            )
            continue
        found.candidates.append(ModelCandidate(name, path, "Ollama", "gguf", (path,)))
    return found


def _subfolders(folder: Path, notes: list[str]) -> list[Path]:
    """Return the folders in a folder; none if it does not exist."""
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        notes.append(f"{folder}: {error.strerror or error}")
        return []
