"""Tiny models for the comparison of engines: small, but complete in all settings that routing depends on.

Selection biases, expert groups, scaling factors, dense layers among MoE layers, shared experts, sliding windows and
recurrent layers are all there where a family has them.
"""

from __future__ import annotations

import dense_families
import published_shapes
import sigmoid_families
import softmax_families
from tiny_model import TinyModel

MODELS: dict[str, TinyModel] = softmax_families.MODELS | sigmoid_families.MODELS

DENSE: dict[str, TinyModel] = dense_families.MODELS
"""Models without MoE layers."""

SHAPES: dict[str, TinyModel] = published_shapes.MODELS
"""Models of published shape, with longer runs."""


def folder_of(name: str) -> str:
    """Return the folder of a model under tests/truth."""
    return "dense" if name in DENSE else "shapes" if name in SHAPES else "models"
