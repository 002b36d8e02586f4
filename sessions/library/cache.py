"""What scans of session files found, kept until a file changes. Losing it costs time and nothing else."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import platformdirs

from moe_watch.backends.system.regular_files import read_regular
from moe_watch.routing.errors import UserError
from moe_watch.sessions import paths
from moe_watch.sessions.version import version

MAX_BYTES = 64 * 1024 * 1024
"""Of the cache's file; a larger one is not ours."""

Found = TypeVar("Found")


class _Known(msgspec.Struct):
    size: int
    changed: int
    """Nanoseconds since the epoch."""
    found: msgspec.Raw


class _CacheFile(msgspec.Struct):
    moe_watch: str
    """Another version may find other things."""
    files: dict[str, _Known] = {}


class LibraryCache:
    """Findings by file.

    Args:
        path: where they are kept between runs; None keeps them nowhere.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known = {} if path is None else _load(path)
        self._changed = False

    @classmethod
    def of_user(cls) -> LibraryCache:
        """The one in the platform's cache directory."""
        return cls(platformdirs.user_cache_path("moe-watch", appauthor=False) / "sessions.json")

    def get(self, path: Path, status: os.stat_result, kind: type[Found]) -> Found | None:
        """What was found in a file, if it is still as it was then."""
        known = self._known.get(_key(path))
        if known is None or (known.size, known.changed) != (status.st_size, status.st_mtime_ns):
            return None
        with suppress(msgspec.MsgspecError, UnicodeDecodeError):
            return msgspec.json.decode(known.found, type=kind)
        return None

    def put(self, path: Path, status: os.stat_result, found: Any) -> None:
        """Keep what was found in a file that has this status."""
        raw = msgspec.Raw(msgspec.json.encode(found))
        self._known[_key(path)] = _Known(status.st_size, status.st_mtime_ns, raw)
        self._changed = True

    def save(self) -> None:
        """Write what changed, without files that are gone; a cache that cannot be written is given up."""
        if self._path is None or not self._changed:
            return
        kept = {path: known for path, known in self._known.items() if Path(path).exists()}
        with suppress(OSError, UserError):
            paths.replace_file(self._path, msgspec.json.encode(_CacheFile(version(), kept)))
            self._changed = False


def _key(path: Path) -> str:
    """A file's name as JSON can hold it; one that is no UTF-8 is not found again by that, and not kept."""
    return os.fsencode(path.absolute()).decode("utf-8", "backslashreplace")


def _load(path: Path) -> dict[str, _Known]:
    with suppress(OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        found = msgspec.json.decode(read_regular(path, MAX_BYTES), type=_CacheFile)
        return found.files if found.moe_watch == version() else {}
    return {}
