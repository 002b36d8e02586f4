"""Other quantizations of a model on this machine: files beside it, of the same repository, or in any known place."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from moe_watch.backends.discovery.finder import candidates_in, file_identity
from moe_watch.backends.discovery.places import SearchPlace
from moe_watch.backends.memory.report import OtherQuantization
from moe_watch.backends.model_files.catalog import ModelLocation
from moe_watch.backends.model_files.gguf import PART, GgufFile, read_parts
from moe_watch.routing.errors import UserError

MOST_FILES = 50
"""Files of a folder whose headers are read."""
MOST_ALTERNATIVES = 6
LONGEST_SEARCH = 5.0
"""Seconds. The headers of 300 models are read in less; a disk that sleeps or is remote may take longer."""

SHAPE = ("block_count", "embedding_length", "expert_count", "expert_used_count", "expert_feed_forward_length")
"""Numbers that all quantizations of one model share."""
VARIANT = ("general.finetune", "general.version", "general.size_label")
"""Parts of a name that differ between a base model and what was trained from it."""


def other_quantizations(
    location: ModelLocation, places: Sequence[SearchPlace] = (), *, seconds: float = LONGEST_SEARCH
) -> tuple[list[OtherQuantization], bool]:
    """Return the same model with other weights, the largest first, and whether the search ended in time.

    There are none for folders. A file that cannot be read is left out: the user did not name it. Outside the model's
    own folder, both files must have the same name in their metadata: many models share a shape.

    Args:
        location: the model.
        places: places to search besides the model's own folder.
        seconds: longest time of the search; what was found until then is returned.
    """
    if location.format != "gguf" or location.path is None or location.origin == "embedded":
        return [], True
    own, found = location.path, list[tuple[int, OtherQuantization]]()
    ended = threading.Event()

    def search() -> None:
        try:
            for sized in chain(_beside(own), _elsewhere(own, places)):
                found.append(sized)  # at once: the search may be abandoned
        finally:
            ended.set()

    # A thread, because a file system that hangs cannot be interrupted.
    threading.Thread(target=search, daemon=True, name="other quantizations").start()
    in_time = ended.wait(seconds)
    unique = {file_identity(each.path): (size, each) for size, each in reversed(found[:])}
    largest = sorted(unique.values(), key=lambda sized: (sized[0], str(sized[1].path)), reverse=True)
    return [each for _, each in largest][:MOST_ALTERNATIVES], in_time


def _beside(path: Path) -> Iterator[tuple[int, OtherQuantization]]:
    """Yield files of the model's folder or repository with their sizes."""
    own = _header(path)
    for other in _files(path):
        part = PART.fullmatch(other.name)
        if other == path or own is None or (part is not None and int(part["number"]) != 1):
            continue
        if (header := _header(other)) is not None and _same_model(own[0], header[0], named=False):
            yield header[1], OtherQuantization(str(other), other)


def _elsewhere(path: Path, places: Sequence[SearchPlace]) -> Iterator[tuple[int, OtherQuantization]]:
    """Yield files of all places with their sizes."""
    own, identity = _header(path), file_identity(path)
    for each in candidates_in(places):
        if own is None or each.format != "gguf" or each.problem or file_identity(each.path) == identity:
            continue
        if (header := _header(each.path)) is not None and _same_model(own[0], header[0], named=True):
            yield header[1], OtherQuantization(each.name, each.path)


def _header(path: Path) -> tuple[GgufFile, int] | None:
    """Return the header of a file and the bytes of its tensors; None if it cannot be read."""
    try:
        parts = read_parts(path, digests=False)
    except (UserError, OSError):
        return None
    return parts[0], sum(tensor.bytes for each in parts for tensor in each.tensors)


def _files(path: Path) -> list[Path]:
    """Return GGUF files: of the whole snapshot of a Hub repository, otherwise of the file's own folder."""
    snapshot = next((parent for parent in path.parents if parent.parent.name == "snapshots"), None)
    found = path.parent.glob("*.gguf") if snapshot is None else snapshot.rglob("*.gguf")
    return sorted(found)[:MOST_FILES]


def _same_model(one: GgufFile, other: GgufFile, *, named: bool) -> bool:
    """Return whether two headers have the same architecture and shape, and do not name different models.

    Args:
        one: a header.
        other: another one.
        named: both must have a name.
    """
    names = [file.metadata.get("general.basename", file.metadata.get("general.name")) for file in (one, other)]
    return (
        one.architecture == other.architecture
        and all(one.number(key) == other.number(key) for key in SHAPE)
        and ((None in names and not named) or names[0] == names[1] is not None)
        and (None in names or all(one.metadata.get(key) == other.metadata.get(key) for key in VARIANT))
    )
