"""Perplexity of a model on a text, by llama.cpp's convention, and the ratio of two models on the same tokens.

References: jelinek-1977, kunsch-1989.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, sqrt

import numpy as np

from moe_watch.routing.arrays import Floats
from moe_watch.routing.stats.token_blocks import FEWEST_BLOCKS, Blocks, block_means

FEWEST_WINDOWS = 2
"""llama.cpp's tool refuses a text of fewer."""
SHORTEST_WINDOW = 8
"""Tokens of a window; of shorter ones too few tokens are scored."""


def first_scored(window: int) -> int:
    """Return the index of the first scored token of a window: the half before it is context only."""
    return window // 2 + 1


@dataclass(frozen=True, slots=True)
class Perplexity:
    """Perplexity of one model on a text."""

    perplexity: float
    standard_error: float
    """Of the perplexity, as llama.cpp's tool gives it: tokens are taken as independent."""
    interval: tuple[float, float] | None
    """95 %, by a block bootstrap; None for fewer than `FEWEST_BLOCKS` blocks."""
    tokens: int
    """Scored tokens."""


@dataclass(frozen=True, slots=True)
class PairedPerplexity:
    """Comparison of two models on the same tokens, token by token."""

    difference: float
    """Mean surprisal of the first model less that of the second, in nats per token."""
    difference_interval: tuple[float, float] | None
    """95 %, by a block bootstrap of the differences; None for fewer than `FEWEST_BLOCKS` blocks."""

    @property
    def ratio(self) -> float:
        """Perplexity of the first model over that of the second."""
        return exp(self.difference)

    @property
    def ratio_interval(self) -> tuple[float, float] | None:
        """95 % interval of the ratio."""
        return _exp(self.difference_interval)


def perplexity(surprisals: Sequence[Floats]) -> Perplexity:
    """Return the perplexity of scored tokens.

    Args:
        surprisals: surprisal of the scored tokens of each window, in nats.

    References: jelinek-1977, kunsch-1989.
    """
    values = np.concatenate(surprisals)
    mean = float(values.mean())
    variance = max(0.0, float((values * values).mean()) - mean * mean)
    return Perplexity(
        perplexity=exp(mean),
        standard_error=exp(mean) * sqrt(variance / (len(values) - 1)),
        interval=_exp(_interval(surprisals)),
        tokens=len(values),
    )


def paired(first: Sequence[Floats], second: Sequence[Floats]) -> PairedPerplexity:
    """Return the comparison of two models' surprisals of the same tokens, window by window.

    References: kunsch-1989.
    """
    differences = [a - b for a, b in zip(first, second, strict=True)]
    return PairedPerplexity(float(np.concatenate(differences).mean()), _interval(differences))


def _interval(windows: Sequence[Floats]) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean over all tokens; None for too few blocks."""
    blocks = Blocks.of(windows)
    return None if len(blocks.tokens) < FEWEST_BLOCKS else block_means(blocks).interval(0)


def _exp(interval: tuple[float, float] | None) -> tuple[float, float] | None:
    return None if interval is None else (exp(interval[0]), exp(interval[1]))
