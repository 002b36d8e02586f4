"""GGUF files on the Hugging Face Hub: choice of a repository's file, local caches, downloads.

Names have the form of llama.cpp's `-hf`: `OWNER/NAME:Q4_K_M` by quantization, `OWNER/NAME` for the default one, and
`OWNER/NAME:FILE.gguf`. Imports nothing heavy, and only `download` uses the network.
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

NAME = re.compile(rf"(?P<repository>{hub.MODEL_ID.pattern})(?::(?P<selector>[\w./-]+))?")

USUAL = ("Q4_K_M", "Q8_0")
"""Quantizations that llama.cpp prefers by default, in this order; after them the first file."""

OTHER_FILES = ("mmproj", "imatrix", "mtp-", "eagle3-", "dflash-", "dspark-")
"""Parts of the names of files that llama.cpp does not load as a model."""

TAG = re.compile(r"[-.]([A-Z0-9_]+)(?:-\d{5}-of-\d{5})?\.gguf", re.IGNORECASE)
"""Quantization at the end of a file's name."""


@dataclass(frozen=True, slots=True)
class GgufName:
    """Parsed name of a GGUF model on the Hub."""

    repository: str
    """`OWNER/NAME`."""
    selector: str | None
    """Quantization or file; None is the default one."""

    @classmethod
    def parse(cls, name: str) -> GgufName | None:
        """Return the parsed name; None if it has another form."""
        matched = NAME.fullmatch(name)
        return None if matched is None else cls(matched["repository"], matched["selector"])

    def choose(self, files: Sequence[str]) -> str | None:
        """Return the selected file, or its first part; None if it is not among the files.

        Args:
            files: all files of a repository, by their paths in it.
        """
        models = sorted(file for file in files if _is_model(file))
        if self.selector is None:
            return next(filter(None, (_tagged(models, tag) for tag in USUAL)), next(iter(models), None))
        if self.selector.lower().endswith(".gguf"):
            return self.selector if self.selector in files else None
        return _tagged(models, self.selector)


def _is_model(file: str) -> bool:
    """Return whether a file can be loaded as a model; further parts are found through the first one."""
    part = PART.fullmatch(file)
    name = file.rpartition("/")[2]
    return (
        file.endswith(".gguf")
        and not any(other in name for other in OTHER_FILES)
        and (part is None or int(part["number"]) == 1)
    )


def _tagged(models: Sequence[str], tag: str) -> str | None:
    """Return the first model with this quantization in its path; `Q4_K_M` does not match `IQ4_K_M`."""
    pattern = re.compile(rf"(?<![A-Z0-9]){re.escape(tag)}[.-]", re.IGNORECASE)
    return next((model for model in models if pattern.search(model)), None)


def parts(file: str) -> list[str]:
    """Return all files of a model, given its first one."""
    named = PART.fullmatch(file)
    if named is None:
        return [file]
    count = named["count"]
    return [f"{named['stem']}-{number:05}-of-{count}.gguf" for number in range(1, int(count) + 1)]


# -- local caches


def cached(name: GgufName) -> Path | None:
    """Return the model's file, or its first part, in a local cache; None if it is incomplete. Uses no network."""
    for files in _caches(name.repository):
        chosen = name.choose(list(files))
        if chosen is not None and all(part in files for part in parts(chosen)):
            return files[chosen]
    return None


def _caches(repository: str) -> Iterator[dict[str, Path]]:
    """Yield the GGUF files of a repository per cache, by their paths in the repository."""
    for folder in hub_folders():
        version = snapshot(folder / f"models--{repository.replace('/', '--')}")
        if version is not None:
            yield {path.relative_to(version).as_posix(): path for path in version.rglob("*.gguf") if path.exists()}
    flat = flat_folder()
    prefix = f"{repository.replace('/', '_')}_"
    if flat.is_dir():
        yield {path.name.removeprefix(prefix): path for path in flat.glob(f"{glob.escape(prefix)}*.gguf")}


def hub_folders() -> list[Path]:
    """Return the cache folders of the Hub's client and of llama.cpp, in llama.cpp's search order."""
    given = [os.environ.get(name, "") for name in ("LLAMA_CACHE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE")]
    home = os.environ.get("HF_HOME") or f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    return [Path(folder).expanduser() for folder in (*given, f"{home}/hub") if folder]


def flat_folder() -> Path:
    """Return llama.cpp's own cache folder, which it used before it shared the Hub's cache."""
    usual = "~/Library/Caches" if sys.platform == "darwin" else os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("LLAMA_CACHE") or Path(usual) / "llama.cpp").expanduser()


LONGEST_COMMIT = 1000
"""Bytes; a commit has 40 digits."""


def snapshot(repository: Path) -> Path | None:
    """Return the folder of a cached repository's newest version; None if it is not cached."""
    try:
        commit = read_regular(repository / "refs" / "main", LONGEST_COMMIT).decode().strip()
    except (OSError, ValueError):
        return None
    version = repository / "snapshots" / commit
    return version if commit and version.is_dir() else None


# -- downloads


def download(name: GgufName, progress: Callable[[Progress], None]) -> Path:
    """Download a model's files into the Hub's cache, and return the first of them.

    Raises:
        UserError: there is no such repository or file, access is denied, or the Hub cannot be reached.
    """
    files = hub.files(name.repository)
    chosen = name.choose(files)
    if chosen is None:
        raise _missing(name, files)
    lacking = [part for part in parts(chosen) if part not in files]
    if lacking:
        raise UserError(f"{name.repository} lacks {lacking[0]}, a part of {chosen}", advice="choose another file")
    patterns = [glob.escape(part) for part in parts(chosen)]
    return hub.download(name.repository, progress, patterns=patterns) / chosen


def _missing(name: GgufName, files: Sequence[str]) -> UserError:
    models = sorted(file for file in files if _is_model(file))
    if not models:
        return UserError(f"{name.repository} has no GGUF file", advice="leave out --backend, or give another model")
    tags = sorted({tag[1] for model in models if (tag := TAG.search(model))}) or models
    return UserError(f"{name.repository} has no {name.selector}", advice=f"choose one of {', '.join(tags)}")
