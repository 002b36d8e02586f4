"""Version of moe-watch."""

from __future__ import annotations

from importlib import metadata


def version() -> str:
    """Return the installed version, `unknown` in a source tree that is not installed."""
    try:
        return metadata.version("moe-watch")
    except metadata.PackageNotFoundError:
        return "unknown"
