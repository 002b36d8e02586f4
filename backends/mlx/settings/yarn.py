"""YaRN rotation of queries and keys, as in config.json, for families where mlx-lm builds an unscaled one."""

from __future__ import annotations

import math
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt

from moe_watch.backends.model_files.config import Config


class YarnRotation(nn.Module):  # type: ignore[misc]
    """YaRN (Peng et al. 2023, arXiv 2309.00071), with `truncate` and `attention_factor` as `transformers` reads them.

    Args:
        dims: number of rotated dimensions of a head.
        base: base of the rotation before scaling.
        traditional: neighbouring dimensions are paired, not the two halves of a head.
        scaling: the config's mapping, with `factor` and `original_max_position_embeddings`.
    """

    def __init__(self, dims: int, base: float, *, traditional: bool, scaling: Config) -> None:
        super().__init__()
        self.dims = dims
        self.traditional = traditional
        self.factor = attention_factor(scaling)
        self._periods = mx.array(1 / inverse_frequencies(dims, base, scaling), mx.float32)

    def __call__(self, x: Any, offset: Any = 0) -> Any:
        if self.factor != 1.0:
            x = x.at[..., : self.dims].multiply(self.factor)
        return mx.fast.rope(
            x, self.dims, traditional=self.traditional, base=None, scale=1.0, offset=offset, freqs=self._periods
        )


def inverse_frequencies(dims: int, base: float, scaling: Config) -> npt.NDArray[np.float64]:
    """Return the angle of one position step for each pair of dimensions."""
    plain = base ** -(np.arange(0, dims, 2) / dims)
    low, high = _range(dims, base, scaling)
    ramp = np.clip((np.arange(dims // 2) - low) / (high - low or 0.001), 0, 1)
    stretched: npt.NDArray[np.float64] = plain / scaling["factor"] * ramp + plain * (1 - ramp)
    return stretched


def _range(dims: int, base: float, scaling: Config) -> tuple[float, float]:
    """Return the first and last pair of dimensions of the ramp.

    They make `beta_fast` and `beta_slow` turns within the original context.
    """

    def pair(turns: float) -> float:
        length = scaling["original_max_position_embeddings"]
        return dims * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(base))

    low, high = pair(scaling.get("beta_fast") or 32), pair(scaling.get("beta_slow") or 1)
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    return max(low, 0), min(high, dims - 1)


def attention_factor(scaling: Config) -> float:
    """Return the factor that multiplies rotated queries and keys."""
    given, factor = scaling.get("attention_factor"), scaling["factor"]
    if given is not None:
        return float(given)
    mscale, of_all = scaling.get("mscale"), scaling.get("mscale_all_dim")
    return _mscale(factor, mscale) / _mscale(factor, of_all) if mscale and of_all else _mscale(factor, 1)


def _mscale(factor: float, by: float) -> float:
    return 0.1 * by * math.log(factor) + 1 if factor > 1 else 1.0
