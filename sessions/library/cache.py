"""Cache of the results of scanning files (sessions, models), by file. Losing it costs time and nothing else."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec
import platformdirs

from moe_watch.backends.system.code_cache import OTHERS_MAY_WRITE
from moe_watch.backends.system.regular_files import read_regular
from moe_watch.routing.errors import UserError
from moe_watch.sessions import paths
from moe_watch.sessions.version import version

MAX_BYTES = 64 * 1024 * 1024
"""Size limit of the cache's file; moe-watch writes no larger one."""

Result = TypeVar("Result", bound=msgspec.Struct)


class _Cached(msgspec.Struct):
    size: int
    """In bytes."""
    changed: int
    """Nanoseconds since the epoch."""
    result: msgspec.Raw


class _CacheFile(msgspec.Struct):
    moe_watch: str
    """Version that wrote the cache. Another version may scan differently."""
    files: dict[str, _Cached] = {}


class LibraryCache:
    """Results by file. A result is valid while size and modification time of its file are unchanged.

    Args:
        path: the cache's file; None for a cache in memory only.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._files = {} if path is None else _load(path)
        self._changed = False

    @classmethod
    def of_user(cls) -> LibraryCache:
        """Return the cache of session files in the platform's cache directory."""
        return cls(_cache_folder() / "sessions.json")

    @classmethod
    def of_models(cls) -> LibraryCache:
        """Return the cache of model files in the platform's cache directory."""
        return cls(_cache_folder() / "models.json")

    def get(self, path: Path, status: os.stat_result, kind: type[Result]) -> Result | None:
        """Return the cached result for a file, None if there is none or the file has changed."""
        cached = self._files.get(_key(path))
        if cached is None or (cached.size, cached.changed) != (status.st_size, status.st_mtime_ns):
            return None
        with suppress(msgspec.MsgspecError, UnicodeDecodeError):
            return msgspec.json.decode(cached.result, type=kind)
        return None

    def put(self, path: Path, status: os.stat_result, result: msgspec.Struct) -> None:
        """Store the result for a file with this status, unless JSON cannot represent it (a lone surrogate)."""
        try:
            raw = msgspec.Raw(msgspec.json.encode(result))
        except UnicodeEncodeError:
            return
        self._files[_key(path)] = _Cached(status.st_size, status.st_mtime_ns, raw)
        self._changed = True

    def save(self) -> None:
        """Write the cache if it changed, without removed files. A cache that cannot be written is dropped silently."""
        if self._path is None or not self._changed:
            return
        kept = {path: cached for path, cached in self._files.items() if Path(path).exists()}
        with suppress(OSError, UserError):
            paths.replace_file(self._path, msgspec.json.encode(_CacheFile(version(), kept)))
            self._changed = False


def _cache_folder() -> Path:
    return platformdirs.user_cache_path("moe-watch", appauthor=False)


def _key(path: Path) -> str:
    """Return a file's path as JSON can represent it. `save` drops a path that is not UTF-8, as no such file exists."""
    return os.fsencode(path.absolute()).decode("utf-8", "backslashreplace")


def _load(path: Path) -> dict[str, _Cached]:
    """Return the content of the file; empty if it is damaged, of another version, or written by another user."""
    with suppress(OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        status = path.stat()
        if status.st_uid != os.geteuid() or status.st_mode & OTHERS_MAY_WRITE:
            return {}
        found = msgspec.json.decode(read_regular(path, MAX_BYTES), type=_CacheFile)
        return found.files if found.moe_watch == version() else {}
    return {}
