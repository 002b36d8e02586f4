"""Experts to switch off, and to compare the most damaging one with; the damage of each half of the tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moe_watch.routing.arrays import Floats, Ints
from moe_watch.routing.stats.token_blocks import SEED, Blocks

FEWEST_DRAWS = 99_999
"""Resamples of p, of few experts."""
DRAWS_PER_EXPERT = 40
"""The smallest p must be able to survive Holm's correction: 1 / (1 + draws) × experts is at most 0.025."""


def draws_for(experts: int) -> int:
    """Return the number of resamples of p for a joint test of this number of experts."""
    return max(FEWEST_DRAWS, DRAWS_PER_EXPERT * experts - 1)


def halves(blocks: Blocks) -> tuple[Floats, Floats]:
    """Return the means of each series over the first and the second half of the blocks, `[N]` each."""
    middle = len(blocks.tokens) // 2
    parts = (slice(None, middle), slice(middle, None))
    first, second = (Blocks(blocks.tokens[part], blocks.sums[:, part]).means for part in parts)
    return first, second


def least_used(tokens: Sequence[int] | Ints) -> int:
    """Return the position of the expert that fewest tokens select; the first of several."""
    return int(np.argmin(tokens))


def similar_expert(at: int, tokens: Ints, layer: Ints) -> int | None:
    """Return another expert of the same layer, at random among the 3 with the most similar number of tokens.

    Args:
        at: position of the expert.
        tokens: tokens that select each expert [N].
        layer: layer of each expert [N].
    """
    others = np.flatnonzero((layer == layer[at]) & (np.arange(len(layer)) != at))
    if not len(others):
        return None
    nearest = others[np.argsort(np.abs(tokens[others] - tokens[at]), kind="stable")[:3]]
    return int(np.random.default_rng(SEED).choice(nearest))


def spread_over_ranks(tokens: Ints, number: int) -> list[int]:
    """Return positions of `number` experts of one layer, spread evenly over their ranks by tokens, ascending.

    The ranks are divided into `number` parts of nearly equal size, and one expert of each is drawn.

    Args:
        tokens: tokens that select each expert [E].
        number: at most E.
    """
    order = np.argsort(-tokens, kind="stable")
    random = np.random.default_rng(SEED)
    return sorted(int(random.choice(part)) for part in np.array_split(order, number))
