"""Other quantizations of a model on this machine: files beside it, or of the same repository."""

from __future__ import annotations

from pathlib import Path

from moe_watch.backends.model_files.catalog import ModelLocation
from moe_watch.backends.model_files.gguf import PART, GgufFile, read_parts
from moe_watch.routing.errors import UserError

MOST_FILES = 50
"""Files of a folder whose headers are read."""
MOST_ALTERNATIVES = 6

SHAPE = ("block_count", "embedding_length", "expert_count", "expert_used_count", "expert_feed_forward_length")
"""Numbers that all quantizations of one model share."""


def other_quantizations(location: ModelLocation) -> list[Path]:
    """Return the files of the same model with other weights, by size, the largest first; none for folders.

    A file that cannot be read is left out: the user did not name it.
    """
    if location.format != "gguf" or location.path is None or location.origin == "embedded":
        return []
    own = read_parts(location.path)[0]
    sized = []
    for path in _files(location.path):
        part = PART.fullmatch(path.name)
        if path == location.path or (part is not None and int(part["number"]) != 1):
            continue
        try:
            parts = read_parts(path)
        except (UserError, OSError):
            continue
        if _same_model(own, parts[0]):
            sized.append((sum(tensor.bytes for each in parts for tensor in each.tensors), path))
    return [path for _, path in sorted(sized, reverse=True)][:MOST_ALTERNATIVES]


def _files(path: Path) -> list[Path]:
    """Return GGUF files: of the whole snapshot of a Hub repository, otherwise of the file's own folder."""
    snapshot = next((parent for parent in path.parents if parent.parent.name == "snapshots"), None)
    found = path.parent.glob("*.gguf") if snapshot is None else snapshot.rglob("*.gguf")
    return sorted(found)[:MOST_FILES]


def _same_model(one: GgufFile, other: GgufFile) -> bool:
    """Return whether two headers have the same architecture and shape, and do not name different models."""
    names = [file.metadata.get("general.basename", file.metadata.get("general.name")) for file in (one, other)]
    return (
        one.architecture == other.architecture
        and all(one.number(key) == other.number(key) for key in SHAPE)
        and (None in names or names[0] == names[1])
    )
