"""Candidates for the list: files and folders that look like models, found by their names."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from moe_watch.backends.discovery.places import PlaceKind
from moe_watch.backends.model_files.catalog import Format
from moe_watch.backends.model_files.gguf import PART

CONFIG = "config.json"
WEIGHTS = (".safetensors", ".safetensors.index.json")
"""Endings of file names in a model folder."""
ADAPTER = "adapter_config.json"
SUFFIX = ".gguf"

DEEPEST = 8
"""Levels of folders below a place."""
MOST_ENTRIES = 200_000
"""Files and folders of one place."""
NOT_ENTERED = frozenset({"/proc", "/sys", "/dev", "/run"})


@dataclass(frozen=True, slots=True)
class ModelCandidate:
    """File or folder that may be a model."""

    name: str
    """Name for the command line: a Hub id, `ollama:NAME`, or a path."""
    path: Path
    """Folder, or first GGUF file."""
    place: PlaceKind
    format: Format
    files: tuple[Path, ...]
    """Files that decide about the facts: GGUF parts, or everything in the folder."""
    problem: str = ""
    """Reason why it cannot be read at all; empty if there is none."""

    @property
    def label(self) -> str:
        """Short name for messages: the name, or the last part of a path."""
        return self.path.name if self.name == str(self.path) else self.name


@dataclass(slots=True)
class FoundFiles:
    """Content of a place."""

    candidates: list[ModelCandidate] = field(default_factory=list)
    others: list[tuple[Path, str]] = field(default_factory=list)
    """Files that are no model, with their kind."""
    notes: list[str] = field(default_factory=list)
    """Parts of the place that were not searched, one line each."""


@dataclass(frozen=True, slots=True)
class TreeFolder:
    """Folder of a tree, with the names of its files."""

    path: Path
    names: frozenset[str]

    @property
    def ggufs(self) -> list[Path]:
        return [self.path / name for name in sorted(self.names) if name.lower().endswith(SUFFIX)]

    @property
    def is_model(self) -> bool:
        """The folder has a config.json and weights in Hugging Face layout."""
        return CONFIG in self.names and any(name.endswith(WEIGHTS) for name in self.names)


def search_tree(root: Path, place: PlaceKind) -> FoundFiles:
    """Return the models in a folder and below it; names are paths."""
    found = FoundFiles()
    for folder in walk(root, found.notes):
        if folder.is_model:
            found.candidates.append(folder_candidate(str(folder.path), folder.path, place))
        elif ADAPTER in folder.names:
            found.others.append((folder.path, "an adapter (LoRA), not a model"))
        found.candidates += gguf_candidates(folder.ggufs, place)
    return found


def walk(root: Path, notes: list[str]) -> Iterator[TreeFolder]:
    """Yield a folder and the folders below it, each once. Links are followed; hidden folders are left out.

    Args:
        root: the folder.
        notes: receives a line for each part that is not searched.
    """
    waiting, seen, entries = [(root, 0)], set[tuple[int, int]](), 0
    while waiting:
        path, level = waiting.pop()
        try:
            status = path.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            files, folders = _listed(path, MOST_ENTRIES - entries)
        except OSError as error:
            notes.append(f"{path}: {error.strerror or error}")
            continue
        entries += len(files) + len(folders)
        yield TreeFolder(path, frozenset(files))
        if entries >= MOST_ENTRIES:
            notes.append(f"{root}: only the first {MOST_ENTRIES:,} files and folders were searched")
            return
        below = [path / name for name in sorted(folders, reverse=True) if str(path / name) not in NOT_ENTERED]
        if below and level == DEEPEST:
            notes.append(f"{path}: folders below level {DEEPEST} were not searched")
            continue
        waiting += [(each, level + 1) for each in below]


def _listed(path: Path, most: int) -> tuple[list[str], list[str]]:
    """Return the names of files and of folders in a folder, `most` together."""
    files, folders = [], []
    with os.scandir(path) as found:
        for number, entry in enumerate(found):
            if number >= most:
                break
            if not _is_folder(entry):
                files.append(entry.name)
            elif not entry.name.startswith("."):
                folders.append(entry.name)
    return files, folders


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links
        return False


def folder_candidate(name: str, path: Path, place: PlaceKind) -> ModelCandidate:
    """Return the candidate for a folder in Hugging Face layout."""
    try:
        with os.scandir(path) as found:
            files = sorted(entry.name for entry in found)
    except OSError:  # the reader of the config says why
        files = []
    return ModelCandidate(name, path, place, "huggingface", tuple(path / file for file in files))


def gguf_candidates(
    files: Sequence[Path], place: PlaceKind, names: dict[Path, str] | None = None
) -> list[ModelCandidate]:
    """Return the candidates for GGUF files of one folder: the files of a split model together.

    Args:
        files: the files.
        place: place in which they are.
        names: name of each file that has another than its path.
    """
    split: dict[tuple[Path, str, str], list[Path]] = {}
    found = []
    for path in files:
        if (part := PART.fullmatch(path.name)) is None:
            found.append(_gguf(path, (path,), place, names))
        else:
            split.setdefault((path.parent, part["stem"], part["count"]), []).append(path)
    for (folder, stem, count), parts in split.items():
        first = folder / f"{stem}-00001-of-{count}.gguf"
        missing = "" if first in parts else f"{first.name} is missing"
        found.append(_gguf(first if not missing else min(parts), tuple(sorted(parts)), place, names, missing))
    return sorted(found, key=lambda each: each.path)


def _gguf(
    path: Path, parts: tuple[Path, ...], place: PlaceKind, names: dict[Path, str] | None, problem: str = ""
) -> ModelCandidate:
    return ModelCandidate((names or {}).get(path, str(path)), path, place, "gguf", parts, problem)
