"""Names of the rankings of experts: in files, in options and in text. It imports nothing, since `--help` reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

Ranking = Literal["count", "weight_mass", "saliency", "saliency_mass"]
"""Quantity by which experts are ranked, higher first, by its key in files."""
RANKINGS: tuple[Ranking, ...] = get_args(Ranking)

WORDS: Mapping[str, str] = {
    "count": "count",
    "weight_mass": "weight mass",
    "saliency": "saliency",
    "saliency_mass": "saliency mass",
}
"""Words for each ranking in text."""

BY_OPTION: Mapping[str, Ranking] = {
    "count": "count",
    "weight": "weight_mass",
    "saliency": "saliency",
    "saliency_mass": "saliency_mass",
}
"""Ranking by its value of `--by`."""
