"""Which moe-watch this is."""

from __future__ import annotations

from importlib import metadata


def version() -> str:
    """The installed version; `unknown` in a source tree that is not installed."""
    try:
        return metadata.version("moe-watch")
    except metadata.PackageNotFoundError:
        return "unknown"
