"""Usage with a known ranking: blocks of tokens drawn from given rates."""

from __future__ import annotations

import numpy as np

from moe_watch.routing.arrays import Floats
from moe_watch.routing.experts.sums import ExpertSums


def planted_blocks(rates: Floats, blocks: int = 40, tokens: int = 200, seed: int = 0) -> list[ExpertSums]:
    """Return blocks with multinomial selections of one expert per token.

    Args:
        rates: probabilities `[L, E]` of each layer's experts.
        blocks: number of blocks.
        tokens: tokens of a block.
        seed: seed of the draws.
    """
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(blocks):
        counts = np.stack([rng.multinomial(tokens, row) for row in rates]).astype(np.int64)
        weights = counts * rng.uniform(0.9, 1.1, counts.shape)
        found.append(ExpertSums(np.full(len(rates), tokens), counts, weights, weights * 2.0))
    return found
