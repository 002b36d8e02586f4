"""References of the experts' weighted outputs; models/truth/saliency.py made them with `transformers` in float32."""

from __future__ import annotations

import pathlib
from functools import cache

import numpy as np

from tests.truth.mlx_comparison import Array

REFERENCES = pathlib.Path(__file__).with_name("references.npz")


@cache
def read_norms(name: str) -> Array:
    """Return ‖weight · f(x)‖₂ of a model of the suite [T, L, E], 0 for experts that were not selected."""
    return np.load(REFERENCES)[name].astype(np.float64)


def saliency(norms: Array) -> Array:
    """Return the mean of norms [T, L, E] over the tokens of each expert [L, E]; NaN for experts without a token."""
    with np.errstate(invalid="ignore"):
        return norms.sum(0) / (norms > 0).sum(0)
