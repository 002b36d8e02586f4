"""Places in which programs keep models, in the order of the search."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from moe_watch.backends.model_files import hub_gguf, ollama
from moe_watch.backends.system.regular_files import read_regular

PlaceKind = Literal["built in", "Hugging Face", "llama.cpp", "Ollama", "LM Studio", "settings", "given"]
"""Program or list that names a place."""

LONGEST_POINTER = 10_000
LONGEST_SETTINGS = 10_000_000
"""Bytes of LM Studio's files."""


@dataclass(frozen=True, slots=True)
class SearchPlace:
    """Folder to search."""

    kind: PlaceKind
    folder: Path


def search_places(settings: Iterable[str] = (), given: Sequence[Path] = ()) -> list[SearchPlace]:
    """Return all places to search, each folder once. They may not exist.

    Args:
        settings: folders from the user's settings; `~` is the home directory.
        given: folders from the command line.
    """
    places = [
        *(SearchPlace("Hugging Face", folder) for folder in hub_gguf.hub_folders()),
        SearchPlace("llama.cpp", hub_gguf.flat_folder()),
        *(SearchPlace("Ollama", folder) for folder in ollama.stores()),
        *(SearchPlace("LM Studio", folder) for folder in _lm_studio_folders()),
        *(SearchPlace("settings", Path(folder).expanduser()) for folder in settings),
        *(SearchPlace("given", folder.expanduser()) for folder in given),
    ]
    # LLAMA_CACHE holds files in both layouts, so a folder may appear once per layout.
    return list({(_layout(place), place.folder): place for place in reversed(places)}.values())[::-1]


def _layout(place: SearchPlace) -> str:
    return place.kind if place.kind in ("Hugging Face", "llama.cpp", "Ollama") else "tree"


def _lm_studio_folders() -> list[Path]:
    """Return the model folders of LM Studio, as its command line client finds them.

    Its home is LMSTUDIO_HOME, the folder named in ~/.lmstudio-home-pointer, ~/.cache/lm-studio or ~/.lmstudio; models
    are in `models`, or in the `downloadsFolder` of its settings.json.
    """
    homes = [Path(each).expanduser() for each in (os.environ.get("LMSTUDIO_HOME", ""), _pointer()) if each]
    homes += [Path("~/.lmstudio").expanduser(), Path("~/.cache/lm-studio").expanduser()]
    return list(dict.fromkeys(folder for home in homes for folder in (*_downloads(home), home / "models")))


def _pointer() -> str:
    try:
        return read_regular(Path("~/.lmstudio-home-pointer").expanduser(), LONGEST_POINTER).decode().strip()
    except (OSError, ValueError):
        return ""


def _downloads(home: Path) -> list[Path]:
    """Return the folder for downloads in LM Studio's settings; none if they name none."""
    try:
        found = json.loads(read_regular(home / "settings.json", LONGEST_SETTINGS))
    except (OSError, ValueError, RecursionError):
        return []
    folder = found.get("downloadsFolder") if isinstance(found, dict) else None
    return [Path(folder)] if isinstance(folder, str) and os.path.isabs(folder) and "\0" not in folder else []
