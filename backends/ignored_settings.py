"""Warnings about settings of a model that an engine ignores, in one wording for all engines."""

from __future__ import annotations

from collections.abc import Sequence

SHOWN = 6
"""Number of names in one warning; the others are counted."""


def ignored(what: str, engine: str) -> str:
    """Return the warning for a setting that the engine ignores.

    Args:
        what: the setting, its value and its effect, as in `clip_qkv 8 (bounds queries, keys and values)`.
        engine: name and version.
    """
    return f"{what} is ignored by {engine}: all numbers are computed without it"


def corrected(what: str, engine: str) -> str:
    """Return the notice for a setting that the engine ignores and moe-watch adds to the loaded model."""
    return f"{what} is ignored by {engine} and added by moe-watch: all numbers are computed with it"


def not_known(settings: Sequence[str], engine: str) -> str:
    """Return the warning for settings whose effect is not known, each as `name value`."""
    return f"not known whether {engine} applies {listed(settings)}"


def listed(names: Sequence[str]) -> str:
    """Return the first names, joined by commas, and the number of the others."""
    more = [f"{len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return ", ".join([*names[:SHOWN], *more])
