"""Warnings about settings of a model that an engine does not heed: one wording for all engines."""

from __future__ import annotations

from collections.abc import Sequence

SHOWN = 6
"""Names in one warning; the others are counted."""


def ignored(what: str, engine: str) -> str:
    """Return the warning for a setting that the engine does not heed.

    Args:
        what: the setting, its value, and what it does, as in `clip_qkv 8 (bounds queries, keys and values)`.
        engine: name and version.
    """
    return f"{what} is ignored by {engine}: the numbers are those of a model without it"


def corrected(what: str, engine: str) -> str:
    """Return the notice for a setting that the engine does not heed and moe-watch adds to the loaded model."""
    return f"{what} is ignored by {engine} and added by moe-watch: the numbers are those of the model with it"


def not_known(settings: Sequence[str], engine: str) -> str:
    """Return the warning for settings of which nothing is known, each as `name value`."""
    return f"not known whether {engine} heeds {listed(settings)}"


def listed(names: Sequence[str]) -> str:
    """Return the first names, and the number of the others."""
    more = [f"{len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return ", ".join([*names[:SHOWN], *more])
