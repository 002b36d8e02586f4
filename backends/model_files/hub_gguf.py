"""GGUF files on the Hugging Face Hub: which file of a repository is meant, and whether it is here already.

Names are those of llama.cpp's `-hf`: `OWNER/NAME:Q4_K_M`, by quantisation; `OWNER/NAME`, for the usual one; and
`OWNER/NAME:FILE.gguf`. Nothing heavy is imported, and the network is asked in `download` only.
"""

from __future__ import annotations

import glob
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from moe_watch.backends.model_files import hub
from moe_watch.backends.model_files.gguf import PART
from moe_watch.backends.system.regular_files import read_regular
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Progress

NAME = re.compile(rf"(?P<repository>{hub.MODEL_ID.pattern})(?::(?P<wanted>[\w./-]+))?")

USUAL = ("Q4_K_M", "Q8_0")
"""What llama.cpp takes if it is not told, in this order; after them the first file."""

OTHER_FILES = ("mmproj", "imatrix", "mtp-", "eagle3-", "dflash-", "dspark-")
"""In names of files that llama.cpp takes for no model of their own."""

TAG = re.compile(r"[-.]([A-Z0-9_]+)(?:-\d{5}-of-\d{5})?\.gguf", re.IGNORECASE)
"""The quantisation at the end of a file's name."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a name asks for."""

    repository: str
    """`OWNER/NAME`."""
    what: str | None
    """A quantisation or a file; None is the usual one."""

    @classmethod
    def of(cls, name: str) -> Wanted | None:
        """None if it is no such name."""
        named = NAME.fullmatch(name)
        return None if named is None else cls(named["repository"], named["wanted"])

    def choose(self, files: Sequence[str]) -> str | None:
        """The file that is meant, the first one if it comes in parts; None if it is not among them.

        Args:
            files: all of a repository's, by their paths in it.
        """
        models = sorted(file for file in files if _is_model(file))
        if self.what is None:
            return next(filter(None, (_tagged(models, tag) for tag in USUAL)), next(iter(models), None))
        if self.what.lower().endswith(".gguf"):
            return self.what if self.what in files else None
        return _tagged(models, self.what)


def _is_model(file: str) -> bool:
    """It can be loaded by itself: other parts are found from the first."""
    part = PART.fullmatch(file)
    name = file.rpartition("/")[2]
    return (
        file.endswith(".gguf")
        and not any(other in name for other in OTHER_FILES)
        and (part is None or int(part["number"]) == 1)
    )


def _tagged(models: Sequence[str], tag: str) -> str | None:
    """The first one with this quantisation in its path, such as `Q4_K_M` but not `IQ4_K_M`."""
    pattern = re.compile(rf"(?<![A-Z0-9]){re.escape(tag)}[.-]", re.IGNORECASE)
    return next((model for model in models if pattern.search(model)), None)


def parts(file: str) -> list[str]:
    """All files of a model, from its first."""
    named = PART.fullmatch(file)
    if named is None:
        return [file]
    count = named["count"]
    return [f"{named['stem']}-{number:05}-of-{count}.gguf" for number in range(1, int(count) + 1)]


# -- what is here


def cached(wanted: Wanted) -> Path | None:
    """The model's file, or the first of them, in a local cache; None if it is not (wholly) there. Asks nobody."""
    for files in _caches(wanted.repository):
        chosen = wanted.choose(list(files))
        if chosen is not None and all(part in files for part in parts(chosen)):
            return files[chosen]
    return None


def _caches(repository: str) -> Iterator[dict[str, Path]]:
    """The GGUF files of a repository in every cache there is, by their paths in the repository."""
    for folder in _hub_folders():
        snapshot = _snapshot(folder / f"models--{repository.replace('/', '--')}")
        if snapshot is not None:
            yield {path.relative_to(snapshot).as_posix(): path for path in snapshot.rglob("*.gguf") if path.exists()}
    flat = _flat_folder()
    prefix = f"{repository.replace('/', '_')}_"
    if flat.is_dir():
        yield {path.name.removeprefix(prefix): path for path in flat.glob(f"{glob.escape(prefix)}*.gguf")}


def _hub_folders() -> list[Path]:
    """Where the Hub's client and llama.cpp keep repositories, as llama.cpp looks for it."""
    given = [os.environ.get(name, "") for name in ("LLAMA_CACHE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE")]
    home = os.environ.get("HF_HOME") or f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    return [Path(folder).expanduser() for folder in (*given, f"{home}/hub") if folder]


def _flat_folder() -> Path:
    """Where llama.cpp kept files before it shared the Hub's cache."""
    usual = "~/Library/Caches" if sys.platform == "darwin" else os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("LLAMA_CACHE") or Path(usual) / "llama.cpp").expanduser()


LONGEST_COMMIT = 1000
"""Bytes; a commit has 40 digits."""


def _snapshot(repository: Path) -> Path | None:
    """The folder of a cached repository's newest version; None if it is not cached."""
    try:
        commit = read_regular(repository / "refs" / "main", LONGEST_COMMIT).decode().strip()
    except (OSError, ValueError):
        return None
    snapshot = repository / "snapshots" / commit
    return snapshot if commit and snapshot.is_dir() else None


# -- what is not


def download(wanted: Wanted, progress: Callable[[Progress], None]) -> Path:
    """Fetch a model's files into the Hub's cache; returns the first of them.

    Raises:
        UserError: there is no such repository or file, it may not be read, or the Hub cannot be reached.
    """
    files = hub.files(wanted.repository)
    chosen = wanted.choose(files)
    if chosen is None:
        raise _missing(wanted, files)
    lacking = [part for part in parts(chosen) if part not in files]
    if lacking:
        raise UserError(f"{wanted.repository} lacks {lacking[0]}, a part of {chosen}", advice="choose another file")
    patterns = [glob.escape(part) for part in parts(chosen)]
    return hub.download(wanted.repository, progress, patterns=patterns) / chosen


def _missing(wanted: Wanted, files: Sequence[str]) -> UserError:
    models = sorted(file for file in files if _is_model(file))
    if not models:
        return UserError(f"{wanted.repository} has no GGUF file", advice="leave --backend out, or give another model")
    names = sorted({tag[1] for model in models if (tag := TAG.search(model))}) or models
    return UserError(f"{wanted.repository} has no {wanted.what}", advice=f"it has {', '.join(names)}")
