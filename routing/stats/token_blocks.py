"""Means over the tokens of several windows, with block bootstrap intervals: successive tokens are not independent.

References: kunsch-1989, efron-1979.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moe_watch.routing.arrays import Floats, Ints

BLOCK = 20
"""Successive tokens in one block, the default chunk. Blocks do not cross windows."""
DRAWS = 2_000
AT_ONCE = 100
"""Draws in one computation, so that memory does not grow with draws × blocks."""
SEED = 0
"""Seed of the draws: the same values have the same interval."""


@dataclass(frozen=True, slots=True, eq=False)
class TokenBlocks:
    """Sums of values of successive tokens, block by block."""

    sums: Floats
    """[B]"""
    tokens: Ints
    """[B] number of tokens of each block."""

    @classmethod
    def of(cls, windows: Sequence[Floats]) -> TokenBlocks:
        """Return the blocks of the values of each window's tokens; the last block of a window may be shorter."""
        sums, tokens = [], []
        for values in windows:
            starts = np.arange(0, len(values), BLOCK)
            sums.append(np.add.reduceat(values, starts) if len(values) else np.empty(0))
            tokens.append(np.diff(np.append(starts, len(values))) if len(values) else np.empty(0, np.int64))
        return cls(np.concatenate(sums), np.concatenate(tokens).astype(np.int64))

    @property
    def mean(self) -> float:
        """Mean over all tokens."""
        return float(self.sums.sum() / self.tokens.sum())

    def interval(self) -> tuple[float, float]:
        """Return the 95 % percentile interval of the mean, by resampling blocks.

        References: kunsch-1989, efron-1979.
        """
        rng, blocks = np.random.default_rng(SEED), len(self.sums)
        means = []
        for _ in range(DRAWS // AT_ONCE):
            drawn = rng.integers(0, blocks, (AT_ONCE, blocks))
            means.append(self.sums[drawn].sum(1) / self.tokens[drawn].sum(1))
        low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
        return float(low), float(high)
